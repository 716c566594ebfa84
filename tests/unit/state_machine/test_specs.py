"""Specs derived incrementally equal those derived from nothing."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masterd.state_machine.specs import NO_SPEC, DerivedSpec, SpecDeriver
from masterd.state_machine.state import State, VersionedDocument
from masterd.state_machine.transaction import Overlay
from nodestore.errors import NodectlError
from nodestore.schema.models import Inventory, Spec
from tests.support.toy_app import ToyApp, inventory


def view(**documents: dict[str, Any]) -> Overlay:
    state = State(documents={path.replace("_", "/"): VersionedDocument(1, value) for path, value in documents.items()})
    return Overlay(state, Inventory(), 0.0)


def test_what_each_spec_read_is_noted() -> None:
    """A node is affected exactly by the documents and listings that its spec read, absent ones included."""
    derivation = SpecDeriver(ToyApp())
    derivation.rebuild(
        inventory("plain", "pointing", "counting", "absent"),
        view(nodes_plain={"x": 1}, nodes_pointing={"see": "d"}, nodes_counting={"count": 1}),
    )
    assert derivation.affected(["nodes/plain"]) == ["plain"]
    assert derivation.affected(["d", "nodes/plain"]) == ["plain", "pointing"]
    assert derivation.affected(["list/new"]) == ["counting"]
    assert derivation.affected(["nodes/absent"]) == ["absent"]
    assert derivation.affected(["other", "list", "nodes/"]) == []


def test_only_changes_are_returned() -> None:
    """Only nodes whose hash changed are returned."""
    derivation = SpecDeriver(ToyApp())
    first = derivation.rebuild(inventory("a", "b"), view(nodes_a={"x": 1}))
    assert set(first) == {"a"}
    assert derivation.rebuild(inventory("a", "b"), view(nodes_a={"x": 1})) == {}
    assert derivation.rebuild(inventory("b"), view(nodes_a={"x": 1})) == {"a": NO_SPEC}
    assert derivation["a"] is NO_SPEC
    assert derivation.nodes == ("b",)


class _RemovedMeanwhile(dict[str, str]):
    """Nodes that another thread removes as soon as this thread has seen them."""

    def get(self, node: str, default: Any = None) -> Any:
        return self.pop(node, default)

    def __contains__(self, node: object) -> bool:
        return self.pop(str(node), None) is not None


def test_a_node_that_hung_may_be_removed_from_the_mapping_during_an_update() -> None:
    """This update leaves it out, as it was in the mapping when it was looked up; the next one derives it."""
    derivation, documents = SpecDeriver(ToyApp(), _RemovedMeanwhile(n1="hung")), view(nodes_n1={"x": 1})
    assert derivation.update(inventory("n1"), documents, ["n1"]) == {}
    assert derivation.failed == {"n1": "hung"}
    assert set(derivation.update(inventory("n1"), documents, ["n1"])) == {"n1"}
    assert not derivation.failed


def test_a_failing_application_is_an_error_of_ours() -> None:
    """If the application fails, NodectlError is raised, and another rebuild restores the specs."""
    derivation = SpecDeriver(ToyApp())
    good = view(nodes_a={"x": 1}, nodes_b={"y": 1})
    before = derivation.rebuild(inventory("a", "b"), good)
    with pytest.raises(NodectlError, match="node b"):
        derivation.rebuild(inventory("a", "b"), view(nodes_a={"x": 2}, nodes_b={"poison": 1}))
    derivation.rebuild(inventory("a", "b"), good)
    assert {node: derivation[node] for node in ("a", "b")} == before
    assert derivation.affected(["nodes/b"]) == ["b"]


def test_a_tolerant_rebuild_leaves_out_the_nodes_that_fail() -> None:
    """A node that fails is reported and refuses no later update; once it can be derived again, it counts as changed."""
    derivation, poisoned = SpecDeriver(ToyApp()), view(nodes_a={"x": 1}, nodes_b={"poison": 1})
    assert set(derivation.rebuild(inventory("a", "b"), poisoned, tolerant=True)) == {"a"}
    assert "node b" in derivation.failed["b"]
    assert derivation.affected(["nodes/b"]) == ["b"]
    assert derivation.update(inventory("a", "b"), poisoned, ["b"]) == {}
    assert set(derivation.update(inventory("a", "b"), view(nodes_a={"x": 1}, nodes_b={"y": 1}), ["b"])) == {"b"}
    assert derivation.failed == {}


def test_a_node_that_failed_and_left_the_inventory_is_reported_as_removed() -> None:
    """Otherwise its last order would stay in etcd."""
    derivation, poisoned = SpecDeriver(ToyApp()), view(nodes_b={"poison": 1})
    derivation.rebuild(inventory("b"), poisoned, tolerant=True)
    assert derivation.rebuild(inventory(), poisoned) == {"b": NO_SPEC}
    assert derivation.failed == {}


@pytest.mark.parametrize(
    "document",
    [
        {"x": float("nan")}, {"x": object()}, {1: 2, "a": 3}, {"x": {1}}, {"x": b"a"}, {"x": [Decimal(1)]},
        {"x": datetime.date(2026, 11, 30)}, {"x": {"y": float("inf")}},
    ],
)  # fmt: skip
def test_a_spec_that_is_no_json_is_an_error_of_ours(document: dict[Any, Any]) -> None:
    """A spec that is not JSON raises NodectlError."""

    class Odd(ToyApp):
        def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
            return Spec.model_construct(driver="d", settings={}, document=document)

    with pytest.raises(NodectlError):
        SpecDeriver(Odd()).rebuild(inventory("a"), view())


def test_the_hash_is_of_what_is_in_it() -> None:
    """The hash covers all fields of a spec, including additional ones, but not their order."""
    one = Spec(driver="d", settings={"a": 1, "b": 2}, document={"x": 1})
    assert (
        DerivedSpec.of(one).hash == DerivedSpec.of(Spec(driver="d", settings={"b": 2, "a": 1}, document={"x": 1})).hash
    )
    others = [
        Spec(driver="e", settings=one.settings, document=one.document),
        Spec(driver="d", settings=one.settings, document={}),
        Spec(driver="d", settings={}, document=one.document),
        Spec.model_validate({**one.model_dump(), "extra": 1}),
    ]
    assert len({DerivedSpec.of(spec).hash for spec in [one, *others]}) == 5
    assert DerivedSpec.of(one).size_bytes > DerivedSpec.of(others[1]).size_bytes > 0


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["nodes/a", "nodes/b", "d", "e", "list/x", "list/y"]),
        st.none() | st.sampled_from([{}, {"x": 1}, {"see": "d"}, {"see": "e"}, {"count": 1}, {"see": "nodes/b"}]),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(CHANGES)
def test_incrementally_is_as_from_nothing(changes: list[tuple[str, dict[str, Any] | None]]) -> None:
    """After any changes the specs and their dependencies are those of a fresh derivation."""
    state, config, derivation = State(), inventory("a", "b"), SpecDeriver(ToyApp())
    derivation.rebuild(config, Overlay(state, config, 0.0))
    for path, document in changes:
        overlay = Overlay(state, config, 0.0)
        documents = {name: kept for name, kept in state.documents.items() if name != path}
        if document is None:
            overlay.delete(path)
        else:
            overlay.put(path, document)
            documents[path] = VersionedDocument(1, document)
        state = State(documents=documents)
        derivation.update(config, overlay, derivation.affected([path]))
        fresh = SpecDeriver(ToyApp())
        fresh.rebuild(config, Overlay(state, config, 0.0))
        assert {node: derivation[node] for node in ("a", "b")} == {node: fresh[node] for node in ("a", "b")}
        assert derivation.dependencies == fresh.dependencies
