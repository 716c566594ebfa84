"""Waiting with a deadline."""

from __future__ import annotations

import asyncio


async def set_within(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until `event` is set, for `timeout_s` seconds at most (None: without a limit); return whether it is set.

    Zero and negative timeouts return the present state. Cancellation passes through.
    """
    try:
        async with asyncio.timeout(timeout_s):  # wait_for() may lose a cancellation on Python 3.11
            await event.wait()
    except TimeoutError:
        return event.is_set()  # it may have been set in the very turn of the loop in which the time was up
    return True
