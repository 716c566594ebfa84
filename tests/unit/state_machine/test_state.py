"""The replicated state: changed only by entries, with bounded memory of ids, and equal after any snapshot and its
suffix."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masterd.replication.images import Image, encode_image
from masterd.state_machine import state as state_module
from masterd.state_machine.batch import CommandRequest
from masterd.state_machine.state import State
from nodestore.errors import Garbage
from nodestore.schema.models import CommandRecord, Entry, Inventory, SpecMark
from tests.support.images import decode_image
from tests.support.toy_app import Line, inventory, replayed, same


def entry(*commands: CommandRecord) -> Entry:
    return Entry(epoch=1, term=7, nonce="n", commands=commands)


def command(index: int, time: float = 0.0, known_as: str = "", **fields: Any) -> CommandRecord:
    return CommandRecord.model_validate(
        {"index": index, "id": known_as or f"id-{index}", "actor": "a", "time": time, "name": "x", **fields}
    )


def test_a_document_has_the_index_of_its_last_change() -> None:
    """A write sets the document and its index, null deletes it, and listings by prefix are sorted."""
    state = State()
    state.apply(entry(command(1, writes={"b/1": {"x": 1}, "b/0": {}, "a": {}})))
    assert state.paths("b/") == ["b/0", "b/1"]
    state.apply(entry(command(2, writes={"b/1": None, "absent": None}), command(3, writes={"a": {"y": 2}, "b/2": {}})))
    assert state.paths("") == ["a", "b/0", "b/2"]
    assert state.paths("b/") == ["b/0", "b/2"]
    assert (state.documents["a"].index, state.documents["a"].value) == (3, {"y": 2})
    assert (state.index, state.documents["b/0"].index) == (3, 1)


@pytest.mark.parametrize("first", [1, 3, 7])
def test_an_entry_that_does_not_follow_is_refused_whole(first: int) -> None:
    """An entry that does not begin at the next index, older or later, changes nothing."""
    state = State()
    state.apply(entry(command(1, writes={"a": {}})))
    before = Image.of(state).to_state()
    with pytest.raises(Garbage, match="gap"):
        state.apply(entry(command(first, writes={"a": {"x": 1}})))
    assert same(state, before)


def test_a_restore_replaces_documents_and_nothing_else() -> None:
    """A restore keeps the index, ids, generations and configuration. A document that is equal keeps its index."""
    line = Line("n1", "n2")
    for path, value in (("nodes/n1", 1), ("nodes/n2", 2), ("only-now", 3)):
        line.one("put", f"put-{path}", path=path, document={"v": value})
    state, before = line.state, Image.of(line.state)
    image = {"nodes/n1": {"v": 1}, "nodes/n2": {"v": 9}, "only-then": {"v": 4}}
    state.apply(
        entry(command(state.index + 1, restore="snap", specs={"n2": {"generation": state.index + 1, "hash": "h"}})),
        {"snap": image},
    )
    assert {path: doc.value for path, doc in state.documents.items()} == image
    assert {path: doc.index for path, doc in state.documents.items()} == {
        "nodes/n1": before.documents["nodes/n1"].index,
        "nodes/n2": state.index,
        "only-then": state.index,
    }
    assert state.paths("") == sorted(image)
    assert state.index == before.index + 1
    assert before.ids.items() < state.ids.items()
    assert state.adopted is before.adopted
    assert state.specs["n1"] == before.specs["n1"]
    assert state.specs["n2"].generation == state.index > before.specs["n2"].generation
    assert state.restores == {state.index: "snap"}


def test_writes_of_a_restore_are_applied_after_its_snapshot() -> None:
    """The writes of a record are applied after the snapshot that the record restores."""
    state = State()
    state.apply(entry(command(1, restore="s", writes={"a": {"new": 1}, "b": None})), {"s": {"a": {}, "b": {}}})
    assert {path: doc.value for path, doc in state.documents.items()} == {"a": {"new": 1}}


def test_a_spec_of_null_removes_the_generation() -> None:
    """A spec of null removes the node's generation."""
    state = State()
    state.apply(entry(command(1, specs={"n": SpecMark(generation=1, hash="h")})))
    state.apply(entry(command(2, specs={"n": None, "never": None})))
    assert state.specs == {}


@pytest.mark.parametrize(
    ("case", "times", "kept", "floor"),
    [
        ("few and old: all are known", [0, 0, 9_000], 3, 0),
        ("many within the hour: all are known", [1000, 1001, 1002, 1003, 1004, 1005], 6, 0),
        ("many, some beyond the hour: those are forgotten", [0, 1, 5_000, 5_000, 5_000, 5_000], 4, 2),
        ("beyond the hour: IDS_MIN of them are known", [0, 1, 2, 9_000, 9_000], 3, 2),
        ("a clock that stepped back: all are known", [9_000, 1, 2, 3, 4], 5, 0),
        ("more than IDS_MAX: the oldest are forgotten, whatever their age", [1000 + i for i in range(10)], 8, 2),
    ],
)
def test_ids_are_forgotten_beyond_an_hour_and_beyond_a_number(
    monkeypatch: pytest.MonkeyPatch, case: str, times: list[float], kept: int, floor: int
) -> None:
    """An id is forgotten if it is older than the window and beyond IDS_MIN, or beyond IDS_MAX.

    `floor` is the last index that is forgotten.
    """
    monkeypatch.setattr(state_module, "IDS_MIN", 3)
    monkeypatch.setattr(state_module, "IDS_MAX", 8)
    state = State()
    for index, time in enumerate(times, start=1):
        state.apply(entry(command(index, float(time))))
    assert (len(state.ids), state.floor) == (kept, floor), case
    assert all(remembered.index > floor for remembered in state.ids.values())


def test_the_default_bounds_of_remembered_ids() -> None:
    """Ids are remembered for at least an hour and at least 10,000 commands."""
    assert state_module.IDS_MIN >= 10_000
    assert state_module.IDS_WINDOW_S >= 3_600
    assert state_module.IDS_MAX > state_module.IDS_MIN


@given(st.lists(st.tuples(st.floats(0, 10_000), st.integers(1, 4), st.booleans()), max_size=60))
def test_every_id_above_the_floor_is_known(steps: list[tuple[float, int, bool]]) -> None:
    """Every id above `floor` is known with its index, whatever clocks and batches are, even if an id is used again
    after it was forgotten."""
    state, ran = State(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module, "IDS_MIN", 5)
        patch.setattr(state_module, "IDS_MAX", 12)
        for time, size, again in steps:
            batch = []
            for offset in range(size):
                index = state.index + 1 + offset
                known_as = "again" if again and offset == 0 else f"id-{index}"
                batch.append(command(index, time, known_as))
                ran[known_as] = index
            state.apply(entry(*batch))
            assert len(state.ids) <= 12
            for known_as, index in ran.items():
                if index > state.floor:
                    assert state.ids[known_as].index == index
            indexes = [remembered.index for remembered in state.ids.values()]
            assert indexes == sorted(indexes), "the oldest id is the next one to be forgotten"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
PATHS = st.sampled_from(["nodes/n1", "nodes/n2", "nodes/n3", "list/a", "list/b", "d", "ä/ö"])
DOCUMENTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3) | st.sampled_from(
    [{"see": "d"}, {"see": "list/a"}, {"count": 1}]
)
COMMANDS = st.tuples(
    st.sampled_from(["put", "put", "put", "delete", "add", "refuse", "fail", "answer", "unknown"]),
    PATHS,
    DOCUMENTS,
    st.sampled_from(["", "", "x", "y"]),
)
STEPS = st.lists(
    st.tuples(st.lists(COMMANDS, min_size=1, max_size=4), st.floats(-50, 5000), st.booleans())
    | st.sampled_from([inventory("n1"), inventory("n1", "n2"), inventory("n1", "n2", "n3", colour="red")])
    | st.dictionaries(PATHS, DOCUMENTS, max_size=4),
    max_size=12,
)


@settings(deadline=None)
@given(steps=STEPS, cut=st.integers(0, 12), chunk_bytes=st.integers(1, 300))
def test_any_snapshot_and_its_suffix_are_the_whole_journal(steps: list[Any], cut: int, chunk_bytes: int) -> None:
    """The leader's memory, the replay of all entries, and any snapshot with the replay of its suffix are the same
    state. Batches without a commit have no effect, and the specs are those of the state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module, "IDS_MIN", 4)
        line, image = Line("n1", "n2"), None
        for number, step in enumerate(steps):
            if number == cut:
                image = decode_image(list(encode_image(Image.of(line.state), chunk_bytes)), "test")
            _step(line, step)
        whole = replayed(line)
        assert same(whole, line.state)
        if image is not None:
            assert same(replayed(line, image.to_state()), whole)
        for node in ("n1", "n2", "n3"):
            mark = line.state.specs.get(node)
            assert line.derivation[node].hash == (mark.hash if mark else "")


def _step(line: Line, step: Any) -> None:
    if isinstance(step, Inventory):
        line.adopt(step)
    elif isinstance(step, dict):
        line.restore(step)
    else:
        commands, delay, committed = step
        line.now += delay
        _run(line, commands, committed)


def _run(line: Line, commands: list[Any], committed: bool) -> None:
    batch = line.batch()
    for number, (name, path, document, known_as) in enumerate(commands):
        args = {"value": document} if name == "answer" else {"path": path, "document": document}
        batch.execute(
            CommandRequest(known_as or f"{line.state.index}-{number}-{id(batch)}", name, args, "t", line.state.floor)
        )
    if batch.records and committed:
        line.commit(batch)
    else:
        batch.undo_derivation()


def test_an_image_is_not_changed_by_what_comes_after_it() -> None:
    """Later changes of the state do not change an image, so it can be encoded while commands run."""
    line = Line("n1")
    line.one("put", path="nodes/n1", document={"x": 1})
    image = Image.of(line.state)
    before = list(encode_image(image))
    line.one("put", path="nodes/n1", document={"x": 2})
    line.adopt(inventory())
    assert list(encode_image(image)) == before


def test_a_name_that_may_not_be_applied_any_more_is_replayed() -> None:
    """A configuration with a name that is refused today, adopted by an earlier release, is still read from entries and
    snapshots."""
    config = {"version": 1, "actor": "a", "time": 0.0, "inventory": {"nodes": {"../up": {}, "n1": {}}}}
    old = entry(command(1, config=config, config_revision=5, config_version=1))
    line = Line()
    line.entries.append(old.encode())
    line.state = replayed(line)
    assert list(line.state.inventory.nodes) == ["../up", "n1"]
    image = decode_image(encode_image(Image.of(line.state)), "test")
    assert same(image.to_state(), line.state)
    line.batch().rebuild_specs()
    line.one("put", path="nodes/n1", document={"x": 1})
    assert line.state.specs["n1"].generation == 2
    assert same(replayed(line), line.state)
    line.adopt(inventory("n1"))
    assert list(replayed(line, image.to_state()).inventory.nodes) == ["n1"]


@pytest.mark.parametrize(
    "chunks",
    [
        [b"not json"],
        [b"[]"],
        [b'{"part":"state"}'],
        [b'{"v":1,"part":"documents","items":{"p":[1]}}'],
        [b'{"v":1,"part":"specs","items":{"n":"x"}}'],
        [b"{}"],
    ],
)
def test_a_malformed_image_is_garbage(chunks: list[bytes]) -> None:
    """A malformed image raises Garbage, and no other exception."""
    with pytest.raises(Garbage):
        decode_image(chunks, "test")
