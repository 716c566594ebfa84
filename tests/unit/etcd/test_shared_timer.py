"""A shared timer: calls are made at their time and in order, and cancelled ones cost no timer of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from nodestore.etcd.shared_timer import SharedTimer
from tests.support.fakes.clock import VirtualTime


class Calls:
    """Notes when each call is made, in seconds since the start."""

    def __init__(self) -> None:
        self.timer = SharedTimer()
        self.made: list[tuple[float, str]] = []
        self._begun = asyncio.get_running_loop().time()

    def later(self, delay_s: float, name: str) -> Callable[[], None]:
        return self.timer.call_later(delay_s, lambda: self._note(name)).cancel

    def _note(self, name: str) -> None:
        self.made.append((round(asyncio.get_running_loop().time() - self._begun, 3), name))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with VirtualTime() as clock:
        clock.run(work())


def test_each_call_is_made_at_its_time() -> None:
    """Also one that is requested later than another, but due earlier."""

    async def work() -> None:
        calls = Calls()
        calls.later(0.3, "c")
        calls.later(0.1, "a")
        calls.later(0.2, "b")
        await asyncio.sleep(1.0)
        calls.later(0.5, "d")
        await asyncio.sleep(1.0)
        assert calls.made == [(0.1, "a"), (0.2, "b"), (0.3, "c"), (1.5, "d")]

    run(work)


def test_a_cancelled_call_is_not_made() -> None:
    """Not even if it is cancelled by a call that is due at the same time."""

    async def work() -> None:
        calls = Calls()
        calls.later(0.1, "first")()
        later: list[Callable[[], None]] = []
        calls.timer.call_later(0.2, lambda: later[0]())
        later.append(calls.later(0.2, "same time"))
        calls.later(0.3, "last")
        await asyncio.sleep(1.0)
        assert calls.made == [(0.3, "last")]

    run(work)


def test_no_call_is_made_after_the_timer_was_cancelled() -> None:
    async def work() -> None:
        calls = Calls()
        calls.later(0.1, "a")
        calls.later(0.2, "b")
        await asyncio.sleep(0.15)
        calls.timer.cancel()
        await asyncio.sleep(1.0)
        assert calls.made == [(0.1, "a")]
        calls.later(0.1, "c")
        await asyncio.sleep(1.0)
        assert calls.made[1:] == [(1.25, "c")]

    run(work)


def test_calls_that_are_cancelled_share_one_timer_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        loop, begun = asyncio.get_running_loop(), []
        call_at = loop.call_at

        def counted(when: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
            begun.append(when)
            return call_at(when, callback, *args)

        monkeypatch.setattr(loop, "call_at", counted)
        timer = SharedTimer()
        for _ in range(1000):
            timer.call_later(0.15, lambda: None).cancel()
        assert len(begun) == 1

    run(work)
