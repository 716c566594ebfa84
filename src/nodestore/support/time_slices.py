"""Splits long work in the event loop into time slices, so that heartbeats and keepalives are sent in time.

Standbys suspect a leader that is silent for a quarter of a second. So work whose duration grows with the state, the
journal or the number of nodes must yield to the event loop regularly.
"""

from __future__ import annotations

import asyncio
import time

from nodestore.support.jsonio import Json, dumps

SLICE_S = 0.01
"""Length of a time slice, in seconds."""
_WHOLE_MAX = 16
"""Objects and lists with at most this many items are encoded without yielding."""


class TimeSlice:
    """The time slices of one long piece of work.

    Call `await time_slice.yield_if_used_up()` after each step of the work. A step should take at most a millisecond.
    """

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._ends = time.monotonic() + slice_s

    async def yield_if_used_up(self) -> None:
        """Yield to the event loop if the current time slice is used up; then start the next one."""
        if time.monotonic() > self._ends:
            await asyncio.sleep(0)
            self._ends = time.monotonic() + self._slice_s


async def dumps_in_slices(answer: Json) -> bytes:
    """Encode `answer` to the same bytes as `dumps`, and yield while encoding its long fields.

    `answer` must not change meanwhile.
    """
    if type(answer) is not dict or not any(_long(value) for value in answer.values()):
        return dumps(answer)
    time_slice = TimeSlice()
    fields = [dumps(name) + b":" + await _value(value, time_slice) for name, value in answer.items()]
    return b"{" + b",".join(fields) + b"}"


def _long(value: Json) -> bool:
    return type(value) in (dict, list) and len(value) > _WHOLE_MAX


async def _value(value: Json, time_slice: TimeSlice) -> bytes:
    if not _long(value):
        return dumps(value)
    items: list[bytes] = []
    if type(value) is list:
        for item in value:
            items.append(dumps(item))
            await time_slice.yield_if_used_up()
        return b"[" + b",".join(items) + b"]"
    for name, item in value.items():
        items.append(dumps(name) + b":" + dumps(item))
        await time_slice.yield_if_used_up()
    return b"{" + b",".join(items) + b"}"
