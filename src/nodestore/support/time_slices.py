"""Long work in the event loop, done in turns: heartbeats are sent, leases kept and others answered in between.

Standbys suspect a leader that is silent for a quarter of a second. So nothing that grows with the state, the journal or
the number of nodes may be done in one go.
"""

from __future__ import annotations

import asyncio
import time

from nodestore.support.jsonio import Json, dumps

TURN_S = 0.01
_WHOLE_MAX = 16
"""Objects and lists of no more items are encoded at once."""


class TimeSlice:
    """Of one piece of work. `await turns.yield_if_used_up()` after each of its steps, which should take a millisecond
    at most."""

    def __init__(self, turn_s: float = TURN_S) -> None:
        self._turn_s = turn_s
        self._ends = time.monotonic() + turn_s

    async def yield_if_used_up(self) -> None:
        """Others have their turn, if this one has been long enough."""
        if time.monotonic() > self._ends:
            await asyncio.sleep(0)
            self._ends = time.monotonic() + self._turn_s


async def dumps_in_slices(answer: Json) -> bytes:
    """The same bytes as by `dumps`; what the answer has many of (documents, commands, nodes) in turns. It must not
    change meanwhile."""
    if type(answer) is not dict or not any(_long(value) for value in answer.values()):
        return dumps(answer)
    turns = TimeSlice()
    fields = [dumps(name) + b":" + await _value(value, turns) for name, value in answer.items()]
    return b"{" + b",".join(fields) + b"}"


def _long(value: Json) -> bool:
    return type(value) in (dict, list) and len(value) > _WHOLE_MAX


async def _value(value: Json, turns: TimeSlice) -> bytes:
    if not _long(value):
        return dumps(value)
    items: list[bytes] = []
    if type(value) is list:
        for item in value:
            items.append(dumps(item))
            await turns.yield_if_used_up()
        return b"[" + b",".join(items) + b"]"
    for name, item in value.items():
        items.append(dumps(name) + b":" + dumps(item))
        await turns.yield_if_used_up()
    return b"{" + b",".join(items) + b"}"
