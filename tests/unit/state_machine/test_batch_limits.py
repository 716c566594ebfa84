"""Limits of a batch, and generations of specs, which only grow."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from masterd.state_machine.batch import BatchLimits, CommandRequest
from masterd.state_machine.specs import SpecDeriver
from nodestore.errors import NodectlError, TooLarge
from nodestore.schema.models import ConfigRecord, Entry, Inventory, decode
from tests.support.toy_app import Line, ToyApp, inventory

# --- limits ---------------------------------------------------------------------------------------------------------


def test_too_many_commands_wait_for_the_next_batch() -> None:
    """A batch that is full does not run further commands. Repeats and refusals do not count towards its limit."""
    line = Line("n1", limits=BatchLimits(commands_max=2))
    requests = [line.request("add", f"x{number}", 1, path="p") for number in range(3)]
    batch = line.batch()
    ran = [
        batch.execute(requests[0]),
        batch.execute(requests[0]),
        batch.execute(line.request("refuse")),
        batch.execute(requests[1]),
    ]
    assert all(ran)
    assert batch.execute(requests[2]) is None
    assert batch.execute(requests[1]) is not None
    line.commit(batch)
    assert line.app.ran == ["add", "add"]
    assert line.one("add", "x2", 1, path="p").result == 3


def test_a_command_too_large_alone_is_refused_alone() -> None:
    """A command that exceeds the size of an entry is refused; the other commands of its batch are run."""
    line = Line("n1", limits=BatchLimits(entry_bytes_max=1_000))
    first, huge, last = line.run(
        line.request("add", path="p"),
        line.request("put", path="nodes/n1", document={"x": "y" * 1_000}),
        line.request("add", path="p"),
    )
    assert first is not None
    assert huge is not None
    assert last is not None
    assert isinstance(huge.error, TooLarge)
    assert (first.result, last.result) == (1, 2)
    assert "n1" not in line.state.specs
    assert line.derivation["n1"].spec is None


def test_commands_too_large_together_go_into_two_batches() -> None:
    """A command that does not fit is undone, specs included, and run again in the next batch."""
    line = Line("n1", "n2", limits=BatchLimits(entry_bytes_max=1_000))
    one = line.request("put", path="nodes/n1", document={"x": "y" * 200})
    two = line.request("put", path="nodes/n2", document={"x": "z" * 200})
    batch = line.batch()
    assert batch.execute(one) is not None
    assert batch.execute(two) is None
    assert line.derivation["n2"].spec is None
    line.commit(batch)
    assert set(line.state.specs) == {"n1"}
    outcome = line.run(two)[0]
    assert outcome is not None
    assert outcome.index == line.state.index
    assert set(line.state.specs) == {"n1", "n2"}
    assert len(line.entries[-1]) < 1_200


def test_a_command_that_does_not_fit_leaves_no_reads_behind() -> None:
    """Undoing a command restores which documents a spec was derived from, even if the spec itself is unchanged."""
    line = Line("n1", limits=BatchLimits(entry_bytes_max=1_000))
    line.one("put", path="nodes/n1", document={"see": "a"})
    huge = line.one("put", path="nodes/n1", document={"see": "b", "x": "y" * 1_000})
    assert isinstance(huge.error, TooLarge)
    before = line.state.specs["n1"]
    changed = line.one("put", path="a", document={"x": 1})
    assert line.state.specs["n1"].generation == changed.index > before.generation


def test_a_spec_that_could_not_be_published_is_refused() -> None:
    """A command is refused if a spec, which includes parts of the configuration, exceeds the limit of
    `desired/<node>`."""
    line = Line(limits=BatchLimits(entry_bytes_max=5_000, spec_bytes_max=2_000))
    line.adopt(inventory("n1", "n2", filler="f" * 1_500))
    big, small = line.run(
        line.request("put", path="nodes/n1", document={"x": "y" * 1_000}),
        line.request("put", path="nodes/n2", document={"x": "y" * 100}),
    )
    assert big is not None
    assert small is not None
    assert isinstance(big.error, TooLarge)
    assert small.error is None
    assert set(line.state.specs) == {"n2"}
    with pytest.raises(TooLarge):
        line.adopt(inventory("n1", "n2", filler="f" * 1_950))


# --- generations ----------------------------------------------------------------------------------------------------


def test_a_generation_only_grows() -> None:
    """A -> B -> A is two changes of the generation; an equal write is none; a spec that is deleted and put again gets a
    new generation."""
    line, seen = Line("n1"), []
    for document in ({"a": 1}, {"b": 1}, {"a": 1}, {"a": 1}):
        line.one("put", path="nodes/n1", document=document)
        seen.append(line.state.specs["n1"])
    assert [mark.generation for mark in seen] == [2, 3, 4, 4]
    assert seen[0].hash == seen[2].hash != seen[1].hash
    line.one("delete", path="nodes/n1")
    assert "n1" not in line.state.specs
    line.one("put", path="nodes/n1", document={"a": 1})
    assert line.state.specs["n1"].generation == line.state.index > 4


def test_each_change_within_a_batch_has_its_generation() -> None:
    """Each command of a batch that changes a spec has its own generation; the last one remains."""
    line = Line("n1")
    line.one("put", path="nodes/n1", document={"a": 1})
    line.run(
        line.request("put", path="nodes/n1", document={"b": 1}),
        line.request("put", path="nodes/n1", document={"a": 1}),
    )
    entry = decode(Entry, line.entries[-1], "entry")
    generations = [mark.generation for record in entry.commands if (mark := record.specs["n1"]) is not None]
    assert generations == [3, 4]
    assert line.state.specs["n1"].generation == 4


def test_a_node_that_leaves_the_configuration_has_no_spec() -> None:
    """The node's document remains. When the node returns, its spec is derived from it, with a new generation."""
    line = Line("n1", "n2")
    line.one("put", path="nodes/n2", document={"x": 1})
    line.adopt(inventory("n1"))
    assert decode(Entry, line.entries[-1], "entry").commands[0].specs == {"n2": None}
    assert "n2" not in line.state.specs
    line.one("put", path="nodes/n2", document={"x": 2})
    assert "n2" not in line.state.specs
    line.adopt(inventory("n1", "n2"))
    assert line.state.specs["n2"].generation == line.state.index
    spec = line.derivation["n2"].spec
    assert spec is not None
    assert spec.document == {"x": 2}


def test_a_restore_gives_new_generations_to_what_it_changes() -> None:
    """A restore changes only the generations of specs that change.

    Ids remain known, and the restore can be repeated.
    """
    line = Line("n1", "n2")
    line.one("put", "first", path="nodes/n1", document={"a": 1})
    line.one("put", path="nodes/n2", document={"b": 1})
    image = {"nodes/n1": {"a": 1}, "nodes/n2": {"b": 1}}
    line.one("put", path="nodes/n1", document={"a": 2})
    before = dict(line.state.specs)
    outcome = line.restore(image)
    assert outcome.result == {"snapshot": "snapshot-0", "documents": 2, "changed": 1}
    assert line.state.specs["n1"].generation == outcome.index > before["n1"].generation
    assert line.state.specs["n2"] == before["n2"]
    assert line.one("put", "first", path="nodes/n1", document={"a": 1}).repeated
    assert line.document("nodes/n1") == {"a": 1}
    repeat = CommandRequest(outcome.id, "snapshot.restore", {"snapshot": "snapshot-0"}, "t", 0)
    again = line.batch().restore(repeat, "other", {})
    assert (again.index, again.repeated) == (outcome.index, True)


def test_a_restore_that_cannot_be_published_is_refused() -> None:
    """A restore that would make a spec too large is refused and changes nothing.

    The document may have fitted with an earlier configuration.
    """
    line = Line("n1", limits=BatchLimits(spec_bytes_max=500))
    line.one("put", path="nodes/n1", document={"a": 1})
    before = line.derivation["n1"]
    with pytest.raises(TooLarge):
        line.restore({"nodes/n1": {"x": "y" * 600}})
    assert line.derivation["n1"] == before
    assert not line.batch().records


def test_a_spec_changes_with_the_documents_that_it_was_derived_from() -> None:
    """A spec changes with each document and each listing that was read to derive it."""
    line = Line("n1", "n2")
    line.one("put", path="nodes/n1", document={"see": "d"})
    line.one("put", path="nodes/n2", document={"count": True})
    assert line.one("put", path="d", document={"x": 1}).index == line.state.specs["n1"].generation
    assert line.one("put", path="list/one", document={}).index == line.state.specs["n2"].generation
    assert line.one("delete", path="list/one").index == line.state.specs["n2"].generation
    line.one("put", path="nodes/n1", document={"plain": 1})
    generation = line.state.specs["n1"].generation
    line.one("put", path="d", document={"x": 2})
    assert line.state.specs["n1"].generation == generation


def test_respec_records_what_this_program_derives() -> None:
    """`respec` returns a record if this program derives other specs than the state holds, and None otherwise."""
    line = Line("n1", "n2", "n3")
    for node in ("n1", "n2"):
        line.one("put", path=f"nodes/{node}", document={"x": 1})
    assert line.batch().respec("m1", "nonce") is None

    class Upgraded(ToyApp):
        def desired(self, config: Inventory, view: Any, node: str) -> Any:
            spec = super().desired(config, view, "n1" if node == "n3" else node)
            return None if node == "n2" or spec is None else spec

    line.app = Upgraded()
    line.derivation = SpecDeriver(line.app)
    batch = line.batch()
    record = batch.respec("m1", "nonce")
    assert record is not None
    assert record.result == {"nodes": ["n2", "n3"]}
    line.commit(batch)
    assert {node: mark.generation for node, mark in line.state.specs.items()} == {"n1": 2, "n3": 4}
    assert line.batch().respec("m1", "other") is None


@pytest.mark.parametrize(
    "inventory_json",
    [
        {"nodes": {"n1": {"position": "up"}}},
        {"nodes": {}, "groups": {"g": {"nodes": ["nobody"]}}},
        {"v": 99},
        {"nodes": {"n1": {}}, "defaults": {"document": {"x": math.nan}}},
        {"nodes": {"n1": {"document": {"poison": 1}}}},
        {"nodes": {"n1": {}, "../up": {}}},
        {"nodes": {"n1": {}}, "groups": {"a/b": {"nodes": ["n1"]}}},
    ],
)
def test_a_garbage_configuration_changes_nothing(inventory_json: dict[str, Any]) -> None:
    """A configuration that is no valid inventory, or that the application fails on, is refused; the undo restores
    everything."""
    line = Line("n1")
    line.one("put", path="nodes/n1", document={"x": 1})

    class Merging(ToyApp):
        def desired(self, config: Inventory, view: Any, node: str) -> Any:
            if "poison" in config.nodes[node].document:
                raise KeyError("poison")
            return super().desired(config, view, node)

    line.app = Merging()
    line.derivation = SpecDeriver(line.app)
    line.batch().rebuild_specs()
    batch, mark = line.batch(), line.state.specs["n1"]
    with pytest.raises((ValueError, NodectlError)) as raised:
        batch.adopt(ConfigRecord.model_construct(version=2, actor="a", time=0.0, inventory=inventory_json, v=1), 5)
    assert isinstance(raised.value, NodectlError) or type(raised.value).__name__ == "ValidationError"
    assert not batch.records
    batch.undo_derivation()
    assert line.derivation["n1"].hash == mark.hash
    line.one("put", path="nodes/n1", document={"x": 2})
    assert line.state.specs["n1"].generation == line.state.index


# --- the size of the state ------------------------------------------------------------------------------------------


def test_a_state_that_would_be_too_large_is_refused_with_the_figure() -> None:
    """Documents and specs count. What makes the state smaller is accepted above the limit too."""
    line = Line("n1", limits=BatchLimits(state_bytes_max=3_000))
    assert line.one("put", path="p", document={"x": "y" * 1_000}).error is None
    refused = line.one("put", path="q", document={"x": "y" * 2_000})
    assert isinstance(refused.error, TooLarge)
    assert re.search(r"put would make the state 31\d\d bytes large .* the limit is 3000", str(refused.error))
    assert line.document("q") is None
    refused = line.one("put", path="nodes/n1", document={"x": "y" * 900})  # and as much again in the spec
    assert isinstance(refused.error, TooLarge)
    assert line.derivation["n1"].spec is None
    line.limits = BatchLimits(state_bytes_max=500)
    assert isinstance(line.one("put", path="q", document={}).error, TooLarge)
    assert line.one("put", path="p", document={"x": "y" * 900}).error is None
    assert line.one("delete", path="p").error is None
    assert line.one("put", path="q", document={}).error is None
    assert line.state.documents_bytes == sum(document.size for document in line.state.documents.values())


def test_the_commands_of_one_batch_are_counted_together() -> None:
    line = Line(limits=BatchLimits(state_bytes_max=3_000))
    outcomes = line.run(
        line.request("put", path="a", document={"x": "y" * 1_400}),
        line.request("put", path="a", document={"x": "y" * 1_500}),
        line.request("put", path="b", document={"x": "y" * 1_400}),
        line.request("delete", path="a"),
        line.request("put", path="b", document={"x": "y" * 1_400}),
    )
    assert [outcome is not None and outcome.error is None for outcome in outcomes] == [True, True, False, True, True]


def test_a_restore_and_a_configuration_are_counted_too() -> None:
    """A configuration that cannot be adopted for its size is rejected, and the last one stays in force."""
    line = Line("n1", limits=BatchLimits(state_bytes_max=3_000))
    with pytest.raises(TooLarge, match="the limit is 3000"):
        line.batch().restore(line.request("snapshot.restore"), "s", {"p": {"x": "y" * 4_000}})
    line.one("put", path="nodes/n1", document={"a": 1})
    with pytest.raises(TooLarge, match=r"config\.adopt would make the state"):
        line.adopt(inventory("n1", text="y" * 4_000))


def test_the_size_of_all_specs_is_kept() -> None:
    """Over changes, failures of the application, and nodes that leave."""
    line = Line("n1", "n2")
    for document in ({"a": "x" * 50}, {"poison": 1}, {"a": "x"}):
        line.one("put", path="nodes/n1", document=document)
        line.one("put", path="nodes/n2", document=document)
        assert line.derivation.total_bytes == sum(line.derivation[node].size_bytes for node in line.derivation.nodes)
    line.adopt(inventory("n2"))
    assert line.derivation.total_bytes == line.derivation["n2"].size_bytes > 0
