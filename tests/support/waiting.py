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
    """Until `condition()` holds; AssertionError that says `what` did not come about."""
    await first_true(condition, what or (lambda: inspect.getsource(condition).strip()), timeout_s=timeout_s)


async def first_true(look: Callable[[], object], what: str | Callable[[], str], *, timeout_s: float = 30.0) -> Any:
    """The first true result of `look()`, which may be a coroutine function; AssertionError after `timeout_s` seconds.

    Where `what` is to show the state of things, pass a function: it is called at the end.
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
