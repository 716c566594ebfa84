"""A timer for many short delays that are nearly always cancelled, such as the pauses before a call is sent again."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Protocol


class Cancellable(Protocol):
    """A delayed call. asyncio.TimerHandle is one too."""

    def cancel(self) -> None: ...


class SharedTimer:
    """Calls functions later, with one timer of the event loop for all of them. Use it in one event loop.

    A call that is cancelled leaves the event loop's timer alone, so the usual case costs one push on a heap. Its entry
    remains there until its time has come: the heap holds at most the calls that were requested within one delay.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, _DelayedCall]] = []
        self._requested = 0
        self._timer: asyncio.TimerHandle | None = None

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Cancellable:
        """Call `callback` after `delay_s` seconds, unless the returned object is cancelled before."""
        loop = asyncio.get_running_loop()
        when, call = loop.time() + delay_s, _DelayedCall(callback)
        self._requested += 1
        heapq.heappush(self._entries, (when, self._requested, call))
        if self._timer is None or when < self._timer.when():
            self._arm(loop, when)
        return call

    def cancel(self) -> None:
        """Cancel all calls."""
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._run_due, loop)

    def _run_due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = max(loop.time(), self._entries[0][0])  # the event loop runs a timer up to its clock's resolution early
        while self._entries and (self._entries[0][0] <= now or self._entries[0][2].callback is None):
            call = heapq.heappop(self._entries)[2]
            if call.callback is not None:
                loop.call_soon(call.run)
        if self._entries:
            self._arm(loop, self._entries[0][0])


class _DelayedCall:
    """One entry of a SharedTimer."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None

    def run(self) -> None:
        if self.callback is not None:
            self.callback()
