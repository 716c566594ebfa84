"""Recordings of histories: what is written is read back, and a file that is no recording is refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from tests.faults.checkers.history import Event, HistoryError, Recorder, calls, load, merged, seen


def recorder(path: Path, step: float = 1.0) -> Recorder:
    ticks = itertools.count(1)
    return Recorder(path, clock=lambda: next(ticks) * step)


def test_calls_come_back_with_their_ends(tmp_path: Path) -> None:
    """An invocation and its end form a call.

    A call without an end is unknown, as one whose end is recorded as unknown.
    """
    path = tmp_path / "history"
    with recorder(path) as record:
        first = record.invoke("c1", "write", key="a", value=1)
        second = record.invoke("c2", "read", key="a")
        record.ok(first, index=7)
        third = record.invoke("c1", "write", key="a", value=2)
        record.unknown(second, error="no answer")
        record.fail(third)
        record.invoke("c1", "delete", key="a")
    found = calls(load(path))
    assert [(call.process, call.op, call.invoked, call.ended, call.end) for call in found] == [
        ("c1", "write", 1, 3, "ok"),
        ("c2", "read", 2, math.inf, "unknown"),
        ("c1", "write", 4, 6, "fail"),
        ("c1", "delete", 7, math.inf, "unknown"),
    ]
    assert (found[0].fields, found[0].result) == ({"key": "a", "value": 1}, {"index": 7})


def test_what_is_seen_is_no_call(tmp_path: Path) -> None:
    """An observation is read back with its own time, and is not a call."""
    path = tmp_path / "history"
    with recorder(path) as record:
        record.seen("n1", "obeyed", epoch=1, term=5, generation=3)
    events = load(path)
    assert seen(events, "obeyed") == [
        Event(1.0, "n1", "seen", None, "obeyed", {"epoch": 1, "term": 5, "generation": 3})
    ]
    assert calls(events) == []


def test_each_line_is_out_when_it_is_said(tmp_path: Path) -> None:
    """A recorder that is killed next has lost nothing."""
    path = tmp_path / "history"
    with recorder(path) as record:
        record.seen("n1", "obeyed", generation=3)
        assert len(load(path)) == 1


def test_a_last_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    """Its writer was killed in the middle of it."""
    path = tmp_path / "history"
    with recorder(path) as record:
        record.seen("n1", "obeyed", generation=3)
    path.write_text(path.read_text() + '{"at": 2.0, "proc')
    assert len(load(path)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"at": 1, "type": "ok", "call": 1}',
        '{"at": "soon", "process": "c", "type": "ok", "call": 1}',
        '{"at": 1, "process": "c", "type": "done", "call": 1}',
        '{"at": 1, "process": "c", "type": "ok"}',
        '{"at": 1, "process": "c", "type": "seen", "call": 1}',
    ],
)
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str) -> None:
    """With its number: what cannot be read must not be judged as if nothing had happened."""
    path = tmp_path / "history"
    path.write_text('{"at": 1, "process": "c", "type": "seen", "op": "x"}\n' + line + "\n")
    with pytest.raises(HistoryError, match="history, line 2: "):
        load(path)


@pytest.mark.parametrize("types", [("ok",), ("invoke", "invoke"), ("invoke", "ok", "fail")])
def test_an_end_out_of_turn_is_named(types: tuple[str, ...]) -> None:
    """An end without a beginning, two beginnings, two ends."""
    events = [Event(float(at), "c1", kind, 1) for at, kind in enumerate(types)]  # type: ignore[arg-type]
    with pytest.raises(HistoryError, match="call 1 of c1"):
        calls(events)


def test_recordings_of_several_processes_become_one(tmp_path: Path) -> None:
    """In the order of time, and their calls' numbers do not meet."""
    for name, step in (("one", 1.0), ("two", 1.5)):
        with recorder(tmp_path / name, step) as record:
            record.ok(record.invoke(name, "read", key="a"), value=1)
    events = list(merged(load(tmp_path / name) for name in ("one", "two")))
    assert [(event.at, event.process) for event in events] == [(1, "one"), (1.5, "two"), (2, "one"), (3, "two")]
    assert [(call.process, call.invoked, call.ended) for call in calls(events)] == [("one", 1, 2), ("two", 1.5, 3)]
