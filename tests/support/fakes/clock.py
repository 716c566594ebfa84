"""Virtual time: an event loop whose clock advances to the next timer at once when no task can run.

`with VirtualTime(seed) as world: world.run(coroutine)`. Everything runs on one thread and by one clock, and nonces come
from the seed, so a run is the same every time. Code that needs another process or real I/O cannot run in it.
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
    """All tasks wait, and there is no timer: nothing can ever happen."""


class _Selector(selectors.SelectSelector):
    """Advances the virtual clock instead of waiting."""

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


async def _at_once(
    worker: Worker, work: Callable[[JobProgress], T], limit_s: float, node_of: Callable[[], str | None] = lambda: None
) -> T:
    """Replaces `Worker.run`: runs the work in the event loop, which application code of tests never blocks."""
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
    """An event loop and its clock, for one test. `close`, or the end of `with`, cancels the tasks that still run."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 1000.0
        self._dice = random.Random(seed)
        self.troubles: list[dict[str, Any]] = []
        """The errors that the loop reported, such as exceptions that were never retrieved."""
        with self._in_force():
            self.loop = asyncio.SelectorEventLoop(_Selector(self))
            self.loop.set_exception_handler(lambda _, context: self.troubles.append(context))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine to its end. The other tasks run meanwhile, and stand still until the next call."""
        with self._in_force():
            return self.loop.run_until_complete(coroutine)

    def wall_clock(self) -> float:
        """Return the virtual time in seconds since the Unix epoch."""
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
            patch.setattr(random, "uniform", self._dice.uniform)
            patch.setattr(Worker, "run", _at_once)
            yield
