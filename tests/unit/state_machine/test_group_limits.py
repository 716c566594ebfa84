"""A sender that is limited to groups plants nothing that reaches other nodes later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import structs

from masterd.application.contract import document_nodes
from masterd.state_machine.group_limits import GroupLimits
from nodesdk import App
from nodesdk.scenes import BuiltinApp, scenes
from nodestore.errors import Forbidden
from nodestore.schema.models import Inventory
from tests.support.toy_app import Line

CONFIG = Inventory.model_validate({
    "nodes": {"n1": {}, "n2": {}}, "groups": {"left": {"nodes": ["n1"]}, "all2": {"nodes": ["n1", "n2"]}},
})  # fmt: skip
OLD_SCENE = {"nodes": {"n2": {"x": 1}}, "description": ""}


def check(app: Any, writes: dict[str, Any], before: dict[str, Any] | None = None, readers: Iterable[str] = ()) -> None:
    limits = GroupLimits("token:panel", ("left",), CONFIG, app, lambda _: readers)
    limits.check_documents(writes, (before or {}).get)


def scene(*nodes: str) -> dict[str, Any]:
    return {"nodes": {node: {"x": 1} for node in nodes}, "description": ""}


@pytest.mark.parametrize(
    ("writes", "before"),
    [
        ({"scenes/a": scene("n1")}, {}),
        ({"scenes/a": None}, {"scenes/a": scene("n1")}),
        ({"scenes/a": scene()}, {"scenes/a": scene("n1")}),
        ({"nodes/n1": {"x": 1}}, {}),
        ({"nodes/n1": None}, {"nodes/n1": {"x": 1}}),
    ],
)
def test_what_concerns_only_nodes_of_the_groups_is_allowed(writes: dict[str, Any], before: dict[str, Any]) -> None:
    check(BuiltinApp(), writes, before)


@pytest.mark.parametrize(
    ("writes", "before", "says"),
    [
        ({"scenes/a": scene("n1", "n2")}, {}, "change the document scenes/a, which concerns node n2"),
        ({"scenes/a": scene("n1")}, {"scenes/a": OLD_SCENE}, "which concerns node n2"),
        ({"scenes/a": None}, {"scenes/a": OLD_SCENE}, "which concerns node n2"),
        ({"scenes/a": scene("gone")}, {}, "which concerns node gone"),
        ({"nodes/n2": {"x": 1}}, {}, "change the document nodes/n2, which concerns node n2"),
        ({"nodes/gone": None}, {"nodes/gone": {}}, "which concerns node gone"),
        ({"scenes/a": {"nodes": "n1"}}, {}, "of which it is not known which nodes it concerns"),
        ({"elsewhere": {}}, {}, "of which it is not known which nodes it concerns"),
        ({"elsewhere": None}, {"elsewhere": {}}, "of which it is not known which nodes it concerns"),
    ],
)
def test_what_concerns_other_nodes_or_may_do_so_is_refused(
    writes: dict[str, Any], before: dict[str, Any], says: str
) -> None:
    with pytest.raises(Forbidden, match=says):
        check(BuiltinApp(), writes, before)


def test_a_document_on_which_only_nodes_of_the_groups_depend_is_allowed() -> None:
    check(BuiltinApp(), {"volume/left": {}}, readers=["n1"])
    with pytest.raises(Forbidden, match="which concerns node n2"):
        check(BuiltinApp(), {"volume/left": {}}, readers=["n1", "n2"])


def test_an_application_says_which_nodes_a_document_concerns() -> None:
    """Its answer counts before that of the application that it extends. An answer of no nodes allows the document."""
    app = App("plant", extends=scenes)

    @app.document_nodes
    def nodes_of(path: str, document: dict[str, Any]) -> list[str] | None:
        if path == "broken":
            raise ValueError(path)
        return {"notes": [], "scenes/own": ["n1"]}.get(path)

    assert document_nodes(app, "scenes/a", scene("n2")) == {"n2"}
    check(app, {"notes": {}, "scenes/own": scene("n2")})
    with pytest.raises(Forbidden, match="which concerns node n2"):
        check(app, {"scenes/a": scene("n2")})
    with pytest.raises(Forbidden, match="the application failed to say"):
        check(app, {"broken": {}})


def test_an_application_that_says_nothing_is_asked_nothing() -> None:
    assert document_nodes(App("bare"), "a", {}) is None


def test_a_command_that_plants_something_is_refused_before_the_commit() -> None:
    """A document that no spec depends on, and one of a node whose spec does not change by it."""
    line = Line()
    line.adopt(CONFIG)

    def limited(path: str) -> Any:
        return structs.replace(line.request("put", path=path, document={}), groups=("left",))

    planted, other, own = line.run(limited("elsewhere"), limited("nodes/n2"), limited("nodes/n1"))
    assert planted is not None
    assert other is not None
    assert own is not None
    assert isinstance(planted.error, Forbidden)
    assert isinstance(other.error, Forbidden)
    assert own.error is None
    assert line.document("elsewhere") is None
    assert line.document("nodes/n2") is None
