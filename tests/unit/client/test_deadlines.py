"""Deadlines of many calls behind one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nodectl.client.connection.deadlines import Deadlines
from tests.support.fakes.clock import VirtualTime


class _Calls:
    """Deadlines, and when each of them passed, in seconds of virtual time."""

    def __init__(self) -> None:
        self.expired: list[tuple[str, float]] = []
        self.deadlines = Deadlines[str](self._note)
        self._begun = asyncio.get_running_loop().time()

    def _note(self, item: str) -> None:
        self.expired.append((item, round(asyncio.get_running_loop().time() - self._begun, 3)))


def _run(work: Callable[[_Calls], Awaitable[None]]) -> None:
    async def whole() -> None:
        await work(_Calls())

    with VirtualTime() as world:
        world.run(whole())


def test_each_passes_at_its_time() -> None:
    """In whatever order they were set, and also if the timer was set for one that was removed."""

    async def work(calls: _Calls) -> None:
        for item, delay_s in (("late", 3.0), ("soon", 0.5), ("removed", 0.1), ("middle", 1.0), ("at once", 0.0)):
            calls.deadlines.set(item, delay_s)
        calls.deadlines.remove("removed")
        calls.deadlines.remove("unknown")
        await asyncio.sleep(5.0)
        assert calls.expired == [("at once", 0.0), ("soon", 0.5), ("middle", 1.0), ("late", 3.0)]
        calls.deadlines.set("later", 0.25)
        await asyncio.sleep(1.0)
        assert calls.expired[4:] == [("later", 5.25)]

    _run(work)


def test_a_deadline_can_be_moved_when_it_passes() -> None:
    """A call that needs more time keeps its place among the others."""

    async def work(calls: _Calls) -> None:
        def note_and_move(item: str) -> None:
            if not passed:
                moved.set(item, 0.2)
            passed.append((item, asyncio.get_running_loop().time()))

        passed: list[tuple[str, float]] = []
        moved = Deadlines[str](note_and_move)
        begun = asyncio.get_running_loop().time()
        moved.set("a", 0.1)
        moved.set("b", 0.2)
        await asyncio.sleep(1.0)
        assert [(item, round(at - begun, 3)) for item, at in passed] == [("a", 0.1), ("b", 0.2), ("a", 0.3)]

    _run(work)


def test_nothing_passes_after_the_end() -> None:
    """Neither what was set before, nor does its timer remain."""

    async def work(calls: _Calls) -> None:
        calls.deadlines.set("a", 0.1)
        calls.deadlines.close()
        await asyncio.sleep(1.0)
        assert calls.expired == []
        calls.deadlines.set("b", 0.1)
        await asyncio.sleep(1.0)
        assert calls.expired == [("b", 1.1)]

    _run(work)
