"""A batch runs each command once, keeps nothing of a refused command, and shares no object with callers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from masterd.state_machine.batch import CommandRequest
from masterd.state_machine.remembered import RememberedResult
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from nodestore.errors import Conflict, Garbage, Invalid, NodectlError, NotFound, Refused, TooOld
from nodestore.schema.entry_codec import encode_entry
from nodestore.schema.models import Entry, Inventory, decode
from nodestore.schema.records import record_fields
from nodestore.support.jsonio import dumps, loads
from tests.faults.late import repeats
from tests.support.toy_app import Line, same


def code_of(outcome: Any) -> str | None:
    return outcome.error.code if outcome.error else None


# --- exactly once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [
        repeats.repeat_within_a_batch_gets_the_first_result,
        repeats.repeat_in_a_later_batch_gets_the_first_result,
        repeats.each_id_takes_effect_once,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_deduplication(scenario: Callable[[], None]) -> None:
    """A repeated command has no second effect, and returns the first result."""
    scenario()


def test_a_repeat_of_a_refused_command_is_run_again() -> None:
    """A refusal is not remembered: the repeat is run, and may be accepted."""
    line = Line("n1")
    assert isinstance(line.one("refuse", "x", 1).error, Refused)
    assert line.one("add", "x", 1, path="p").result == 1


def test_commands_of_an_uncommitted_batch_are_not_remembered() -> None:
    """A command whose batch was not committed is not known: the repeat is run as a new command."""
    line = Line("n1")
    batch = line.batch()
    batch.execute(line.request("add", "x", 1, path="p"))
    batch.undo_derivation()
    outcome = line.one("add", "x", 1, path="p")
    assert (outcome.result, outcome.repeated) == (1, False)


@pytest.mark.parametrize(
    ("after", "known", "expected"),
    [
        (None, False, None),
        (9, False, "too_old"),
        (0, False, "too_old"),
        (10, False, None),
        (15, False, None),
        (20, False, None),
        (21, False, "conflict"),
        (9, True, None),
        (21, True, None),
    ],
)
def test_after_decides_whether_an_unknown_id_may_run(after: int | None, known: bool, expected: str | None) -> None:
    """If `after` is below the floor, an unknown id is refused, because it may have run.

    If `after` is beyond the index, it is a conflict, because the store was restored. A known id is answered whatever
    its `after` is.
    """
    line = Line()
    line.state.index, line.state.floor = 20, 10
    if known:
        line.state.ids["x"] = RememberedResult(15, 0.0, b'"first"')
    outcome = line.run(line.request("add", "x", after, path="p"))[0]
    assert outcome is not None
    assert code_of(outcome) == expected
    assert line.app.ran == ([] if expected or known else ["add"])
    if known:
        assert (outcome.result, outcome.index, outcome.repeated) == ("first", 15, True)
    if expected == "too_old":
        assert isinstance(outcome.error, TooOld)
        assert isinstance(outcome.error, Conflict)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_only_a_fault_of_a_handler_is_reported() -> None:
    """`on_fault` is called for an exception of a handler, not for a refusal or an unknown command."""
    line, faults = Line("n1"), []
    batch = line.batch()
    batch.on_fault = lambda name, error: faults.append((name, repr(error)))
    for name in ("refuse", "no-such", "fail", "add"):
        batch.execute(line.request(name))
    assert faults == [("fail", "ZeroDivisionError('as asked')")]


@pytest.mark.parametrize(
    ("name", "args", "kind"),
    [
        ("refuse", {"document": {"x": 1}}, Refused),
        ("fail", {"document": {"x": 1}}, NodectlError),
        ("no-such", {}, NotFound),
        ("put", {"document": 3}, Invalid),
        ("put", {"path": "a//b"}, Invalid),
        ("put", {"path": ""}, Invalid),
        ("put", {"path": "a\nb"}, Invalid),
        ("put", {"path": "a" * 600}, Invalid),
        ("put", {"path": "nodes/n1", "document": {"poison": 1}}, NodectlError),
    ],
)
def test_a_refusal_leaves_no_trace(name: str, args: dict[str, Any], kind: type[NodectlError]) -> None:
    """A refused command leaves no index, document, id or spec, and does not affect the other commands of its batch."""
    with_it, without = Line("n1"), Line("n1")
    for line in (with_it, without):
        line.one("put", "first", path="nodes/n1", document={"see": "d"})
    batch = with_it.batch()
    before = batch.execute(CommandRequest("before", "add", {"path": "d"}, "t", 0))
    refused = batch.execute(CommandRequest("refused", name, args, "t", 0))
    after = batch.execute(CommandRequest("after", "add", {"path": "d"}, "t", 0))
    with_it.commit(batch)
    without.run(
        CommandRequest("before", "add", {"path": "d"}, "t", 0), CommandRequest("after", "add", {"path": "d"}, "t", 0)
    )
    assert refused is not None
    assert before is not None
    assert after is not None
    assert isinstance(refused.error, kind)
    assert (before.result, after.result) == (1, 2)
    assert after.index == before.index + 1
    assert same(with_it.state, without.state)
    assert with_it.entries == without.entries


def test_a_batch_of_refusals_writes_nothing() -> None:
    """A batch in which every command was refused has no record to commit."""
    line = Line("n1")
    batch = line.batch()
    assert batch.execute(line.request("refuse")) is not None
    assert not batch.records
    assert batch.next_index == line.state.index + 1


SURROGATE = chr(0xD800)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(math.nan, id="not a number"),
        pytest.param([{"x": math.inf}], id="infinity"),
        pytest.param({1: 2}, id="key is no text"),
        pytest.param({"x": object()}, id="object"),
        pytest.param({"x": b"bytes"}, id="bytes"),
        pytest.param({"x": {3}}, id="set"),
        pytest.param({"x": SURROGATE}, id="half a character"),
        pytest.param({SURROGATE: 1}, id="half a character as key"),
        pytest.param(10**400, id="huge number"),
    ],
)
@pytest.mark.parametrize("name", ["put", "answer"])
def test_values_that_are_not_json_are_refused(name: str, value: Any) -> None:
    """Values that JSON cannot represent exactly are refused: committed, they would stop every replica for good."""
    line = Line("n1")
    args = {"document": {"value": value}, "path": "nodes/n1"} if name == "put" else {"value": value}
    outcome = line.one(name, **args)
    assert isinstance(outcome.error, Invalid), outcome
    assert len(line.entries) == 1
    assert line.one("add", path="p").result == 1


@pytest.mark.parametrize("depth", [1, 50, 150, 190, 195, 199, 2_000])
def test_what_is_committed_can_be_read_back(depth: int) -> None:
    """A deeply nested document is refused, or the entry that holds it can be parsed.

    The entry adds levels of nesting to those of the request.
    """
    value: Any = 1
    for _ in range(depth):
        value = [value]
    line = Line("n1")
    outcome = line.one("put", path="nodes/n1", document={"x": value})
    if outcome.error is not None:
        assert isinstance(outcome.error, Invalid)
        return
    assert depth < 100
    assert decode(Entry, line.entries[-1], "entry").commands[0].writes["nodes/n1"] == {"x": value}


def test_a_tuple_is_stored_as_a_list() -> None:
    """A tuple is returned and stored as a list, as every replica reads it."""
    line = Line("n1")
    assert line.one("answer", value=(1, (2,))).result == [1, [2]]
    line.one("put", path="p", document={"x": (1, 2)})
    assert line.document("p") == {"x": [1, 2]}


# --- nothing is shared ----------------------------------------------------------------------------------------------


def test_objects_of_callers_are_not_shared_with_the_state() -> None:
    """The state does not change if a handler or a caller changes an object that it passed or received."""
    line = Line("n1")
    args: dict[str, Any] = {"path": "nodes/n1", "document": {"x": {"y": 1}}}
    fresh = line.one("put", "id", 1, **args)
    again = line.one("put", "id", 1, **args)
    before = dumps([doc.value for doc in line.state.documents.values()]), dumps(line.state.ids["id"].result)
    spec = line.derivation["n1"].spec
    assert spec is not None
    for thing in (args["document"], fresh.result, again.result, *line.app.kept):
        thing["x"] = "changed"
        thing.setdefault("document", {})["x"] = "changed"
    found = Overlay(line.state, Inventory(), 0.0).get("nodes/n1")
    assert found is not None
    found["x"]["y"] = "changed"
    assert (dumps([doc.value for doc in line.state.documents.values()]), dumps(line.state.ids["id"].result)) == before
    repeat = line.one("put", "id", 1, path="nodes/n1", document={"x": {"y": 1}})
    assert repeat.result == {"path": "nodes/n1", "document": {"x": {"y": 1}}}
    assert spec.document == {"x": {"y": 1}}


def test_put_copies_the_document() -> None:
    """`put` copies the document, so a later change of the caller's object has no effect, even in the same batch."""
    line = Line("n1")
    batch = line.batch()
    batch.execute(line.request("put", path="p", document={"x": 1}))
    line.app.kept[0]["x"] = 2
    batch.execute(line.request("put", path="q", document={}))
    line.commit(batch)
    assert line.document("p") == {"x": 1}


# --- time and encoding ----------------------------------------------------------------------------------------------


def test_time_never_goes_back() -> None:
    """If the leader's clock is behind, a command gets the time of the last command."""
    line = Line(now=1000.0)
    line.one("add", path="p")
    line.now = 10.0
    line.one("add", path="p")
    assert decode(Entry, line.entries[-1], "entry").commands[0].time == 1000.0


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none(), max_size=4),
    st.text(max_size=64),
)
def test_an_entry_is_plain_json(document: dict[str, Any], actor: str) -> None:
    """An entry encoded without the model is decoded by the model, and is valid JSON for any parser."""
    line = Line("n1")
    batch = line.batch()
    batch.execute(CommandRequest("x", "put", {"path": "p", "document": document}, actor, None))
    raw = encode_entry(1, 7, "nonce", batch.encoded)
    entry = decode(Entry, raw, "entry")
    assert entry.commands[0].writes == {"p": document}
    assert entry.commands[0].actor == actor
    strict = json.loads(raw, parse_constant=_no_constants)
    assert strict == loads(entry.model_dump_json(exclude_defaults=True)) | strict
    assert record_fields(entry.commands[0]) == record_fields(batch.records[0])


def _no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_indexes_are_consecutive() -> None:
    """The indexes of commands are consecutive across batches."""
    line = Line("n1")
    for size in (1, 3, 2):
        line.run(*(line.request("add", path="p") for _ in range(size)))
    indexes = [record.index for raw in line.entries for record in decode(Entry, raw, "entry").commands]
    assert indexes == list(range(1, 8))


@pytest.mark.parametrize("mutate", [lambda state: state.index + 1, lambda state: state.index - 1])
def test_a_batch_for_another_state_does_not_apply(mutate: Callable[[State], int]) -> None:
    """The state refuses an entry whose first index is not the next one."""
    line = Line("n1")
    line.one("add", path="p")
    batch = line.batch()
    batch.execute(line.request("add", path="p"))
    line.state.index = mutate(line.state)
    with pytest.raises(Garbage):
        line.commit(batch)


def test_a_record_that_no_replica_could_read_fails_only_its_own_command() -> None:
    line = Line("n1")
    batch = line.batch()
    refused = batch.execute(CommandRequest("x", "put", {"path": "p", "document": {}}, "\ud800", None))
    accepted = batch.execute(CommandRequest("y", "put", {"path": "p", "document": {"a": 1}}, "ann", None))
    assert refused is not None
    assert isinstance(refused.error, Invalid)
    assert accepted is not None
    assert accepted.error is None
    assert [record.id for record in batch.records] == ["y"]


# --- limits of the sender -------------------------------------------------------------------------------------------


def _limited(line: Line, name: str, path: str, *groups: str) -> CommandRequest:
    return replace(line.request(name, path=path, document={"x": 1}), groups=groups)


def test_a_sender_changes_only_nodes_of_its_groups() -> None:
    """What a command changes counts, not what it names. A refused command leaves nothing behind."""
    line = Line()
    config = {"nodes": {"n1": {}, "n2": {}}, "groups": {"left": {"nodes": ["n1"]}, "both": {"nodes": ["n1", "n2"]}}}
    line.adopt(Inventory.model_validate(config))
    assert [code_of(item) for item in line.run(_limited(line, "put", "nodes/n1", "left"))] == [None]
    refused, shared = line.run(
        _limited(line, "put", "nodes/n2", "left"),
        _limited(line, "put", "nodes/n2", "nothing", "both"),
    )
    assert refused is not None
    assert code_of(refused) == "forbidden"
    assert "may not change node n2" in str(refused.error)
    assert code_of(shared) is None
    assert line.document("nodes/n2") == {"x": 1}


def test_a_sender_of_a_group_that_does_not_exist_changes_no_node() -> None:
    line = Line("n1")
    [outcome] = line.run(_limited(line, "put", "nodes/n1", "gone"))
    assert code_of(outcome) == "forbidden"
    assert line.document("nodes/n1") is None
