"""Waiting for a condition with a deadline, in place of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]],
    what: str | Callable[[], str] = "",
    *,
    timeout_s: float = 30.0,
) -> None:
    """Wait until `condition()` holds. Raises AssertionError, which names `what`, after `timeout_s` seconds."""
    await first_true(condition, what or (lambda: inspect.getsource(condition).strip()), timeout_s=timeout_s)


async def first_true(look: Callable[[], object], what: str | Callable[[], str], *, timeout_s: float = 30.0) -> Any:
    """Return the first true result of `look()`, which may be a coroutine function.

    Raises AssertionError, which names `what`, after `timeout_s` seconds. If `what` is a function, it is called only
    then, so that it can describe the state at that time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(0.01)
