"""Waiting with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from nodestore.errors import TimedOut, Unavailable
from nodestore.support.backoff import Backoff


async def set_within(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until `event` is set, for at most `timeout_s` seconds (None: without a limit); return whether it is set.

    If `timeout_s` is zero or negative, return at once. Cancellation is raised as usual.
    """
    try:
        async with asyncio.timeout(timeout_s):  # wait_for() may lose a cancellation on Python 3.11
            await event.wait()
    except TimeoutError:
        return event.is_set()  # it may have been set in the iteration of the loop in which the time ran out
    return True


async def wait_until(
    check: Callable[[], Awaitable[str | None]],
    what: str,
    timeout_s: float,
    pauses: Backoff,
    *,
    report: Callable[[str], None] = lambda _: None,
    details: Callable[[], str] = lambda: "",
) -> None:
    """Repeat `check`, which returns what is still missing, until it returns None.

    If `check` raises Unavailable, the text of that error is what is missing. Raises TimedOut after `timeout_s` seconds.
    Its message contains `what`, the text of what is missing, and `details()`. pauses: the pauses between checks.
    report: called after each check with what is missing. An error that it raises ends the wait.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            missing = await check()
        except Unavailable as error:  # such as during a change of the leader
            missing = str(error)
        if missing is None:
            return
        report(missing)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimedOut(f"waited {timeout_s:g} s until {what}: {missing}{details()}")
        await asyncio.sleep(min(pauses.next_s(), left_s))
