"""Runs one instance of a driver with a context like that of noded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from noded.drivers.contract import Context, Driver
from tests.support.waiting import first_true

TIMEOUT_S = 20.0


async def until(look: Callable[[], Any], what: str) -> Any:
    """Return the first true result of `look`."""
    return await first_true(look, what, timeout_s=TIMEOUT_S)


class Woken:
    """The `wake` of a context: records that it was called."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.event.set()

    async def wait(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await self.event.wait()
        self.event.clear()


@asynccontextmanager
async def driver(
    make: Callable[[Context], Driver], work_dir: Path, nonce: str = "nonce1"
) -> AsyncIterator[tuple[Any, Woken]]:
    woken = Woken()
    async with asyncio.TaskGroup() as tasks:
        made = make(Context("n1", "test", work_dir, nonce, woken, tasks))
        try:
            yield made, woken
        finally:
            await made.stop()
