"""Concurrent callers that each make one call after another for some time, and what they measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.harness.load import Load

Call = Callable[[int], Awaitable[Any]]
"""One call of the caller with this number."""


async def run_callers(call: Call, callers: int, seconds: float) -> Load:
    """Let so many callers call for `seconds`; each makes at least one. The first failure ends all of them."""
    took_ms: list[float] = []
    begun = time.perf_counter()
    end = begun + seconds

    async def caller(number: int) -> None:
        ended = 0.0
        while ended < end:
            started = time.perf_counter()
            await call(number)
            ended = time.perf_counter()
            took_ms.append((ended - started) * 1e3)

    async with asyncio.TaskGroup() as tasks:
        for number in range(callers):
            tasks.create_task(caller(number))
    return Load(callers, len(took_ms), time.perf_counter() - begun, tuple(sorted(took_ms)))
