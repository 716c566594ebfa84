"""Time that passes only when nothing else can happen: an event loop in which waiting costs nothing.

`with VirtualTime(seed) as world: world.run(coroutine)`. Everything in it runs on one thread and by one clock, and names
that programs make up (nonces) come from the seed, so a run is the same every time. Only what needs no other process
and no real I/O may run in it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from masterd.application.worker import JobProgress, Worker

T = TypeVar("T")


class Stuck(Exception):
    """Nothing is left that could ever happen."""


class _Selector(selectors.SelectSelector):
    """Instead of waiting, it moves the clock on."""

    def __init__(self, clock: VirtualTime) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Stuck("every task waits for another")
        if not ready and timeout is not None and timeout > 0:
            self._clock.now += timeout
        return ready


async def _at_once(worker: Worker, work: Callable[[JobProgress], T], limit_s: float) -> T:
    """Application code in tests does not hang. Others still get their turn before and after it."""
    await asyncio.sleep(0)
    result = work(JobProgress())
    await asyncio.sleep(0)
    return result


async def _end_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


class VirtualTime:
    """A loop and its clock, for one test. Close it (or use `with`): what still runs in it is cancelled."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 1000.0
        self._dice = random.Random(seed)
        self.troubles: list[dict[str, Any]] = []
        """What the loop complained of: exceptions that nobody looked at."""
        with self._in_force():
            self.loop = asyncio.SelectorEventLoop(_Selector(self))
            self.loop.set_exception_handler(lambda _, context: self.troubles.append(context))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run until it is done; all other tasks go on meanwhile, and rest from then until the next run."""
        with self._in_force():
            return self.loop.run_until_complete(coroutine)

    def wall_clock(self) -> float:
        """Seconds since the Unix epoch, for programs that are handed such a clock."""
        return 1_700_000_000.0 + self.now

    def close(self) -> None:
        with self._in_force():
            self.loop.run_until_complete(_end_all())
            self.loop.close()

    def __enter__(self) -> VirtualTime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _in_force(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: self.now)
            patch.setattr(time, "clock_gettime", lambda _: self.now)
            patch.setattr(time, "time", self.wall_clock)
            patch.setattr(secrets, "token_hex", lambda count: self._dice.randbytes(count).hex())
            patch.setattr(Worker, "run", _at_once)
            yield
