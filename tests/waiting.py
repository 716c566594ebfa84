"""Waiting for a condition with a deadline, in place of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str = "", *, timeout_s: float = 30.0
) -> None:
    """Until `condition()` holds; AssertionError that says `what` did not come about."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.01)
