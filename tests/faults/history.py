"""What was asked and seen while faults were done, as JSON lines: written as it happens, judged afterwards.

One event a line. `at`: seconds of the monotonic clock, which the processes of one machine share. `process`: who.

    {"at": 12.1, "process": "c1", "type": "invoke", "call": 7, "op": "write", "key": "nodes/n1", "value": 3}
    {"at": 12.3, "process": "c1", "type": "ok", "call": 7, "index": 41}
    {"at": 12.4, "process": "s1", "type": "seen", "op": "event", "epoch": 1, "index": 41, "id": "c1-7"}

A call is an `invoke` and at most one `ok`, `fail` or `unknown` with its number. `fail` means that it surely has not
happened and never will; `unknown`, like no end at all, that it may have happened, or may yet. What is seen in one
moment, rather than asked for, is of type `seen`. Every other field belongs to the operation (see `history_checks`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TextIO, get_args

End = Literal["ok", "fail", "unknown"]
Type = Literal["invoke", "ok", "fail", "unknown", "seen"]
_OWN = ("at", "process", "type", "call", "op")


class HistoryError(ValueError):
    """The recording is not one: the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `call` is None for what was seen; `op` is "" at the end of a call."""

    at: float
    process: str
    type: Type
    call: int | None = None
    op: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """An operation from its invocation to its end. `ended` is infinite for unknown ones: they may happen at any time.

    fields: of the invocation; result: of the end.
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
    """Writes a history. Each line is out before the call returns, so that a recorder that is killed loses nothing that
    it has said. Not for several threads."""

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
        """A call begins. Its number, for its end."""
        self._calls += 1
        self._open[self._calls] = process
        self._write({"process": process, "type": "invoke", "call": self._calls, "op": op, **fields})
        return self._calls

    def ok(self, call: int, **result: Any) -> None:
        self._end(call, "ok", result)

    def fail(self, call: int, **result: Any) -> None:
        """It surely has not happened, and never will."""
        self._end(call, "fail", result)

    def unknown(self, call: int, **result: Any) -> None:
        """It may have happened, or may yet."""
        self._end(call, "unknown", result)

    def seen(self, process: str, op: str, **fields: Any) -> None:
        """Something that was seen in one moment."""
        self._write({"process": process, "type": "seen", "op": op, **fields})

    def _end(self, call: int, end: End, result: Mapping[str, Any]) -> None:
        self._write({"process": self._open.pop(call), "type": end, "call": call, **result})

    def _write(self, event: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"at": round(self._clock(), 6), **event}, separators=(",", ":")) + "\n")


def load(path: Path) -> list[Event]:
    """The events of one recording, in their order. A last line that was cut short is passed over: its writer died."""
    text = path.read_text("utf-8", "replace")
    lines = text.split("\n")
    whole = lines[:-1]
    return [_parsed(line, f"{path.name}, line {number}") for number, line in enumerate(whole, start=1)]


def merged(histories: Iterable[Iterable[Event]]) -> list[Event]:
    """The events of several recorders of one machine, in the order of their times; calls get numbers of their own."""
    events: list[Event] = []
    for number, history in enumerate(histories):
        for event in history:
            call = None if event.call is None else (number << 40) + event.call
            events.append(Event(event.at, event.process, event.type, call, event.op, event.fields))
    return sorted(events, key=lambda event: event.at)


def _parsed(line: str, where: str) -> Event:
    try:
        data = json.loads(line)
        fields = {name: value for name, value in data.items() if name not in _OWN}
        event = Event(
            float(data["at"]), str(data["process"]), data["type"], data.get("call"), data.get("op", ""), fields
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HistoryError(f"{where}: {error!r}") from None
    if event.type not in get_args(Type) or (event.call is None) != (event.type == "seen"):
        raise HistoryError(f"{where}: no event: {line[:100]}")
    return event


def calls(events: Iterable[Event]) -> list[Call]:
    """All calls, by their beginnings. HistoryError where an end has no beginning, or a call has two."""
    begun: dict[int, Event] = {}
    ended: dict[int, Event] = {}
    for event in events:
        if event.call is None:
            continue
        known = begun if event.type == "invoke" else ended
        if event.call in known or (event.type != "invoke" and event.call not in begun):
            raise HistoryError(f"call {event.call} of {event.process} has {event.type} at {event.at} out of turn")
        known[event.call] = event
    found = [_call(event, ended.get(number)) for number, event in begun.items()]
    return sorted(found, key=lambda call: call.invoked)


def _call(begun: Event, end: Event | None) -> Call:
    kind: End = "unknown" if end is None or end.type == "unknown" else "ok" if end.type == "ok" else "fail"
    at = math.inf if end is None or kind == "unknown" else end.at
    return Call(begun.process, begun.op, begun.at, at, kind, begun.fields, end.fields if end else {})


def seen(events: Iterable[Event], op: str) -> list[Event]:
    """What was seen of one kind, in order."""
    return [event for event in events if event.type == "seen" and event.op == op]
