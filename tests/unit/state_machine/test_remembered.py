"""Remembered results: bounded in bytes, forgotten where the leader says so, and never confused with one another."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masterd.replication.images import Image, encode_image, load_chunk
from masterd.state_machine import state as state_module
from masterd.state_machine.batch import CommandRequest
from masterd.state_machine.remembered import RESULT_BYTES_MAX, RememberedResult
from masterd.state_machine.state import State
from nodestore.errors import IdReused, TooOld
from nodestore.schema.entry_codec import decode_fast, encode_entry
from nodestore.schema.models import CommandRecord, Entry, decode
from nodestore.support.jsonio import dumps, loads
from tests.support.toy_app import Line, replayed, same


def read_back(image: Image) -> State:
    state = State()
    for raw in encode_image(image, 200):
        load_chunk(state, raw, "test")
    return state


# --- an id belongs to one request -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize(
    ("name", "args", "same_request"),
    [
        ("put", {"path": "p", "document": {"a": 1, "b": (1, 2)}}, True),
        ("put", {"document": {"b": [1, 2], "a": 1}, "path": "p"}, True),
        ("put", {"path": "p", "document": {"a": 2, "b": [1, 2]}}, False),
        ("put", {"path": "p"}, False),
        ("add", {"path": "p", "document": {"a": 1, "b": [1, 2]}}, False),
    ],
)
def test_an_id_with_another_request_is_refused(
    batches: int, name: str, args: dict[str, Any], same_request: bool
) -> None:
    """It gets no result of the first one, neither in the same batch nor later. The order of names does not count."""
    line = Line()
    first = line.request("put", "x", 0, path="p", document={"a": 1, "b": [1, 2]})
    second = CommandRequest("x", name, args, "t", 0)
    if batches == 1:
        _, outcome = line.run(first, second)
    else:
        line.run(first)
        (outcome,) = line.run(second)
    assert outcome is not None
    if same_request:
        assert (outcome.index, outcome.repeated) == (1, True)
        return
    assert isinstance(outcome.error, IdReused)
    assert "x was used at index 1" in str(outcome.error)
    assert line.app.ran == ["put"]
    assert len(line.entries) == 1


def test_the_request_of_an_id_is_known_from_journal_and_snapshot() -> None:
    """The digest is derived from the entry, also from one of an old version, and is part of snapshots."""
    line = Line()
    line.one("add", "x", 0, path="p")
    for state in (replayed(line), read_back(Image.of(line.state))):
        line.state = state
        assert isinstance(line.one("add", "x", 0, path="q").error, IdReused)
        assert line.one("add", "x", 0, path="p").repeated


def test_an_id_that_an_old_version_remembered_is_not_checked() -> None:
    """Its snapshots hold no digests. The first result is returned as before."""
    line = Line()
    line.state.index, line.state.ids["x"] = 5, RememberedResult(5, 0.0, b'"first"')
    assert line.one("add", "x", 0, path="anything").result == "first"


def test_arguments_without_a_canonical_form_stop_no_replica() -> None:
    """An entry of an old version may hold a number that JSON reads as infinite."""
    record = CommandRecord(index=1, id="x", actor="a", time=0.0, name="n", args={"x": float("inf")})
    state = State()
    state.apply(Entry(epoch=1, term=1, nonce="n", commands=(record,)))
    assert state.ids["x"].digest is None


# --- large results --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1, 0, 1, 1_000])
def test_a_large_result_is_remembered_by_its_index(more: int) -> None:
    """Its id stays known, so it is never run again; the caller reads the result from the journal."""
    line = Line()
    value = "x" * (RESULT_BYTES_MAX - 2 + more)
    first = line.one("answer", "x", 0, value=value)
    assert (first.result, first.result_in_journal) == (value, False)
    again = line.one("answer", "x", 0, value=value)
    large = more > 0
    assert (again.index, again.repeated, again.result_in_journal) == (first.index, True, large)
    assert again.result == (None if large else value)
    assert (line.state.ids_bytes < 500) == large


# --- the floor ------------------------------------------------------------------------------------------------------


def entry(first: int, results: list[int], *, floor: int | None = None, time: float = 0.0) -> Entry:
    """An entry of commands whose results have these sizes."""
    commands = tuple(
        CommandRecord(
            index=first + offset, id=f"c{first + offset:02}", actor="a", time=time, name="n", result="x" * size
        )
        for offset, size in enumerate(results)
    )
    return Entry(epoch=1, term=1, nonce="n", commands=commands, floor=floor)


def test_bytes_come_before_hours_and_counts() -> None:
    """The oldest are forgotten first, only as many as needed, and none of the entry that says so."""
    state = State()
    state.apply(entry(1, [1_000] * 10, floor=0))
    each = state.ids["c01"].size_under("c01")
    assert state.ids_bytes == 10 * each
    assert state.floor_within(10 * each) == 0
    assert state.floor_within(10 * each - 1) == 1
    assert state.floor_within(3 * each) == 7
    assert state.floor_within(0) == 10
    state.apply(entry(11, [1_000], floor=state.floor_within(0)))
    assert (state.floor, list(state.ids), state.ids_bytes) == (10, ["c11"], each)


@pytest.mark.parametrize(("floor", "kept", "expected"), [(None, 3, 7), (0, 10, 0), (4, 6, 4), (9, 1, 9)])
def test_replicas_follow_the_floor_of_the_entry(
    monkeypatch: pytest.MonkeyPatch, floor: int | None, kept: int, expected: int
) -> None:
    """They compute none, so versions and settings cannot diverge. Without one, the rule of old versions counts."""
    monkeypatch.setattr(state_module, "IDS_MIN", 3)
    state = State()
    state.apply(entry(1, [1] * 9, floor=0, time=1.0))
    state.apply(entry(10, [1], floor=floor, time=10_000.0))
    assert (len(state.ids), state.floor) == (kept, expected)


def test_a_floor_never_falls() -> None:
    """A leader of an old version, or with a larger limit, brings nothing back."""
    state = State()
    state.apply(entry(1, [1] * 5, floor=0))
    state.apply(entry(6, [1], floor=5))
    state.apply(entry(7, [1], floor=2))
    assert (state.floor, list(state.ids)) == (5, ["c06", "c07"])


def test_a_result_is_forgotten_as_fast_after_many_others() -> None:
    """Otherwise each command costs every replica more, the more results were forgotten before it.

    The time is compared with that of the least work that it takes, in the same moment on the same core.
    """
    many, step = 60_000, 200
    results = {f"id-{number}": RememberedResult(number, 0.0, b"{}") for number in range(1, many + 1)}
    entries = [entry(many + 1 + number, [1], floor=step * number) for number in range(many // 2 // step)]

    def least_s() -> float:
        ids, begun = dict(results), time.thread_time()
        for number in range(1, many // 2):
            ids.pop(f"id-{number}").size_under(f"id-{number}")
        return time.thread_time() - begun

    def forget_s() -> float:
        state, begun = State(index=many, ids=dict(results)), time.thread_time()
        for item in entries:
            state.apply(item)
        took_s = time.thread_time() - begun
        assert next(iter(state.ids)) == f"id-{state.floor + 1}"
        assert len(state.ids) == many + len(entries) - state.floor
        return took_s

    assert min(forget_s() for _ in range(3)) < 8 * min(least_s() for _ in range(3))


def test_a_repeat_of_a_forgotten_command_is_refused() -> None:
    """It may have run, so it is not run again."""
    line = Line()
    line.one("add", "x", 0, path="p")
    batch = line.batch()
    batch.forget("m1", "nonce")
    raw = encode_entry(1, 7, "n", batch.encoded, line.state.floor_within(0))
    for decoded in (decode_fast(raw), decode(Entry, raw, "entry")):
        assert decoded is not None
        assert (decoded.floor, decoded.commands[0].name) == (1, "results.forget")
    line.state.apply(decode(Entry, raw, "entry"))
    assert isinstance(line.one("add", "x", 0, path="p").error, TooOld)
    assert line.document("p") == {"sum": 1}


@pytest.mark.parametrize("floor", [b"true", b"-1", b"1.5", b'"1"'])
def test_a_floor_that_is_no_index_is_left_to_the_model(floor: bytes) -> None:
    raw = encode_entry(1, 7, "n", [], 1).replace(b'"floor":1', b'"floor":' + floor)
    assert decode_fast(raw) is None


# --- sizes and snapshots --------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(_TEXT, st.integers(0, 40), st.sampled_from([0, 1, 5_000])), min_size=1, max_size=30),
    st.integers(0, 3_000),
)
def test_sizes_are_bounds_of_what_a_snapshot_holds(commands: list[tuple[str, int, int]], limit: int) -> None:
    """Sums stay exact over repeats, deletions and floors, and survive a snapshot."""
    state = State()
    for index, (name, path, size) in enumerate(commands, start=1):
        writes: dict[str, Any] = {f"p{path}": None if size == 1 else {"x": name * size}}
        record = CommandRecord(
            index=index, id=name, actor="a", time=float(index), name="n", result=name * size, writes=writes
        )
        floor = state.floor_within(limit)
        state.apply(Entry(epoch=1, term=1, nonce="n", commands=(record,), floor=floor))
        assert state.ids_bytes == sum(known.size_under(name) for name, known in state.ids.items())
        assert state.documents_bytes == sum(document.size for document in state.documents.values())
        assert state.ids_bytes <= limit + state.ids[name].size_under(name)
    by_part: dict[str, int] = {}
    for raw in encode_image(Image.of(state), 1 << 30):
        part = loads(raw)["part"]
        by_part[part] = by_part.get(part, 0) + len(raw) - len(dumps({"v": 1, "part": part, "items": {}}))
    assert by_part.get("ids", 0) + by_part.get("digests", 0) + by_part.get("by_index", 0) <= state.ids_bytes
    assert by_part.get("documents", 0) <= state.documents_bytes
    loaded = read_back(Image.of(state))
    assert same(loaded, state)
    assert (loaded.ids_bytes, loaded.documents_bytes) == (state.ids_bytes, state.documents_bytes)


def test_old_versions_read_the_ids_of_a_snapshot() -> None:
    """They expect three values for each id, and skip parts that they do not know."""
    line = Line()
    line.one("answer", "large", 0, value="x" * 5_000)
    parts = [loads(raw) for raw in encode_image(Image.of(line.state))]
    assert [part["items"] for part in parts if part["part"] == "ids"] == [{"large": [1, 1000.0, None]}]
    assert {part["part"] for part in parts} <= {"state", "specs", "documents", "ids", "digests", "by_index", "actions"}


def test_a_snapshot_of_an_old_version_is_read() -> None:
    """Its results are counted, whatever their size, so that the leader forgets them in time."""
    state = State()
    load_chunk(state, dumps({"v": 1, "part": "ids", "items": {"x": [1, 0.0, "y" * 9_000]}}), "old")
    assert state.ids["x"].result == "y" * 9_000
    assert state.ids_bytes > 9_000
    assert state.floor_within(9_000) == 1


def test_a_snapshot_holds_the_floor() -> None:
    """A replica that loads it refuses what may have been forgotten."""
    line = Line()
    line.one("answer", "x", 0, value=1)
    line.state.floor = 1
    line.state = read_back(Image.of(line.state))
    assert line.state.floor == 1
    assert isinstance(line.one("answer", "y", 0, value=1).error, TooOld)


def test_a_snapshot_without_ids_counts_them_as_forgotten() -> None:
    """A replica that must load it refuses repeats: it cannot know them."""
    line = Line("n1")
    line.one("add", "x", 0, path="p")
    loaded = read_back(Image.of(line.state).without_ids())
    assert (loaded.index, loaded.floor, loaded.ids, loaded.ids_bytes) == (2, 2, {}, 0)
    assert (loaded.documents, loaded.specs, loaded.adopted) == (
        line.state.documents, line.state.specs, line.state.adopted,
    )  # fmt: skip
    line.state = loaded
    assert isinstance(line.one("add", "x", 0, path="p").error, TooOld)
