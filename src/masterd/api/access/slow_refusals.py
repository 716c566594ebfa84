"""Answers invalid credentials late, as `refusal_delays` says, after it has examined them once more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from masterd.api.access.refusal_delays import RefusalDelays

T = TypeVar("T")


class SlowRefusals:
    """Shared by all ways of showing a credential to this masterd: each invalid one delays the answer to the next."""

    def __init__(self) -> None:
        self._delays = RefusalDelays()

    async def found_late(self, address: str, find: Callable[[], T | None]) -> T | None:
        """What `find` returns after the delay of this address: a credential that another masterd has made may have
        arrived by then. None if there is no delay, because too many answers wait already."""
        delay_s = self._delays.begin(address, time.monotonic())
        if not delay_s:
            return None
        found = None
        try:
            await asyncio.sleep(delay_s)
            found = find()
        finally:
            self._delays.end(address, was_valid=found is not None)
        return found
