"""The history of a run under faults, as JSON lines: calls of clients and observations. It is judged afterwards.

One event a line. `at`: seconds of the monotonic clock, which all processes of a machine share. `process`: its author.

    {"at": 12.1, "process": "c1", "type": "invoke", "call": 7, "op": "write", "key": "nodes/n1", "value": 3}
    {"at": 12.3, "process": "c1", "type": "ok", "call": 7, "index": 41}
    {"at": 12.4, "process": "s1", "type": "seen", "op": "event", "epoch": 1, "index": 41, "id": "c1-7"}

A call is an `invoke` and at most one `ok`, `fail` or `unknown` with its number. `fail` means that it has not taken
effect and never will. `unknown`, or no end at all, means that it may have taken effect or may yet. An observation,
which has no duration, is of type `seen`. Every other field belongs to the operation (see `history_checks`).
"""

from __future__ import annotations

import heapq
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO, get_args

End = Literal["ok", "fail", "unknown"]
Type = Literal["invoke", "ok", "fail", "unknown", "seen"]
_TYPES = frozenset(get_args(Type))
_CALL_BITS = 40  # of a call's number; the higher bits are the number of its recorder


class HistoryError(ValueError):
    """The file is not a valid history. The message names the line and the error."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `call` is None for an observation; `op` is "" at the end of a call."""

    at: float
    process: str
    type: Type
    call: int | None = None
    op: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """An operation from its invocation to its end.

    ended: infinite if the outcome is unknown, as it may take effect at any time. fields: those of the invocation.
    result: the fields of the end.
    """

    process: str
    op: str
    invoked: float
    ended: float
    end: End
    fields: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        until = "?" if math.isinf(self.ended) else f"{self.ended:.3f}"
        words = " ".join(f"{name}={value!r}" for name, value in {**self.fields, **self.result}.items())
        return f"{self.op} {words} of {self.process} ({self.invoked:.3f} to {until} s, {self.end})"


class Recorder:
    """Writes a history. Not thread-safe.

    Each line is written before the method returns, so that a recorder that is killed has lost nothing.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)
        self._calls = 0
        self._open: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def invoke(self, process: str, op: str, **fields: Any) -> int:
        """Record the begin of a call; return its number, with which its end is recorded."""
        self._calls += 1
        self._open[self._calls] = process
        self._write({"process": process, "type": "invoke", "call": self._calls, "op": op, **fields})
        return self._calls

    def ok(self, call: int, **result: Any) -> None:
        self._end(call, "ok", result)

    def fail(self, call: int, **result: Any) -> None:
        """Record that the call has not taken effect and never will."""
        self._end(call, "fail", result)

    def unknown(self, call: int, **result: Any) -> None:
        """Record that the call may have taken effect, or may yet."""
        self._end(call, "unknown", result)

    def seen(self, process: str, op: str, **fields: Any) -> None:
        """Record an observation."""
        self._write({"process": process, "type": "seen", "op": op, **fields})

    def _end(self, call: int, end: End, result: Mapping[str, Any]) -> None:
        self._write({"process": self._open.pop(call), "type": end, "call": call, **result})

    def _write(self, event: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"at": round(self._clock(), 6), **event}, separators=(",", ":")) + "\n")


def lines(path: Path) -> Iterator[Event]:
    """The events of one recording, in their order, one at a time: a recording may be larger than memory. A last line
    that was cut short is passed over: its writer died."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith("\n"):
                yield _parsed(line, f"{path.name}, line {number}")


def load(path: Path) -> list[Event]:
    """All of one recording."""
    return list(lines(path))


def merged(histories: Iterable[Iterable[Event]]) -> Iterator[Event]:
    """The events of several recorders of one machine, in the order of their times, one at a time; calls get numbers of
    their own. Each recorder's must be in that order already, as they are written."""
    numbered = [_numbered(number, history) for number, history in enumerate(histories)]
    return heapq.merge(*numbered, key=lambda event: event.at)


def _numbered(number: int, history: Iterable[Event]) -> Iterator[Event]:
    for event in history:
        if event.call is None:
            yield event
        else:
            call = (number << _CALL_BITS) + event.call
            yield Event(event.at, event.process, event.type, call, event.op, event.fields)


def _parsed(line: str, where: str) -> Event:
    try:
        data = json.loads(line)
        at, process, kind = float(data.pop("at")), str(data.pop("process")), data.pop("type")
        event = Event(at, process, kind, data.pop("call", None), data.pop("op", ""), data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"{where}: {error!r}") from None
    if kind not in _TYPES or (event.call is None) != (kind == "seen"):
        raise HistoryError(f"{where}: no event: {line[:100]}")
    return event


class Joining:
    """Joins the begins and ends of calls. Holds only the open calls in memory."""

    def __init__(self) -> None:
        self._open: dict[int, Event] = {}
        self._last: dict[int, int] = {}

    def see(self, event: Event) -> Call | None:
        """The call that this event ends, else None. HistoryError if an end has no begin, or a call begins twice."""
        number = event.call
        if number is None:
            return None
        if event.type != "invoke":
            begun = self._open.pop(number, None)
            if begun is None:
                raise _out_of_turn(event)
            return _call(begun, event)
        recorder = number >> _CALL_BITS
        if number <= self._last.get(recorder, 0):  # each recorder counts up, so this number was used before
            raise _out_of_turn(event)
        self._last[recorder] = number
        self._open[number] = event
        return None

    def rest(self) -> Iterator[tuple[int, Call]]:
        """The calls that never ended, with their numbers. Their outcome is unknown."""
        return ((number, _call(event, None)) for number, event in self._open.items())


def _out_of_turn(event: Event) -> HistoryError:
    return HistoryError(f"call {event.call} of {event.process} has {event.type} at {event.at} out of turn")


def _call(begun: Event, end: Event | None) -> Call:
    kind: End = "unknown" if end is None or end.type == "unknown" else "ok" if end.type == "ok" else "fail"
    at = math.inf if end is None or kind == "unknown" else end.at
    return Call(begun.process, begun.op, begun.at, at, kind, begun.fields, end.fields if end else {})


def calls(events: Iterable[Event]) -> list[Call]:
    """All calls, in the order of their begins. HistoryError like `Joining.see`."""
    joining = Joining()
    found = [call for event in events if (call := joining.see(event)) is not None]
    found += [call for _, call in joining.rest()]
    return sorted(found, key=lambda call: call.invoked)


def seen(events: Iterable[Event], op: str) -> list[Event]:
    """All observations of one kind, in order."""
    return [event for event in events if event.type == "seen" and event.op == op]
