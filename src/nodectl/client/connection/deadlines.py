"""Deadlines of many calls, with one timer of the event loop for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Calls `on_expired` with each item whose deadline has passed and that was not removed before.

    A timer for each call would cost a sixth of the CPU time of a command in its client, although nearly none of them
    ever runs out. When the timer fires, all items are searched; with equal limits that happens once within a limit.
    """

    def __init__(self, on_expired: Callable[[T], None]) -> None:
        self._on_expired = on_expired
        self._times: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def set(self, item: T, delay_s: float) -> None:
        """Add an item, or change its deadline, which is in `delay_s` seconds."""
        loop = asyncio.get_running_loop()
        self._times[item] = at = loop.time() + delay_s
        if at < self._timer_at:
            self._arm(loop, at)

    def remove(self, item: T) -> None:
        """Forget an item; it may have expired already."""
        self._times.pop(item, None)

    def close(self) -> None:
        """Forget all items."""
        self._times.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, float("inf")

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(at, self._expire, loop), at

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = max(loop.time(), self._timer_at)  # the event loop runs a timer up to its clock's resolution early
        self._timer, self._timer_at = None, float("inf")
        for item in [item for item, at in self._times.items() if at <= now]:
            self._times.pop(item, None)
            self._on_expired(item)
        if self._times:
            self._arm(loop, min(self._times.values()))
