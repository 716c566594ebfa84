"""Blocking calls off the event loop, for a driver that touches what may not answer: a network share, a device."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from noded.drivers.contract import DriverError

T = TypeVar("T")


class OffLoop:
    """Runs one call at a time, each on a thread that does not keep the process from ending.

    A call cannot be interrupted: when whoever asked for it was cancelled or has given up, it goes on, and the next one
    waits for it. So there is never more than one thread, and `wait_idle` tells when it is done. `what` names, in
    errors,
    what is waited for.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._busy: asyncio.Future[None] | None = None

    async def run(self, call: Callable[[], T], timeout_s: float) -> T:
        """What `call` returns or raises; DriverError when that takes longer than `timeout_s` (or what it waits for)."""
        await self.wait_idle(timeout_s)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        results: list[T] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                results.append(call())
            except Exception as error:  # noqa: BLE001 - raised below, where it is waited for
                errors.append(error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set_result, None)

        self._busy = done
        threading.Thread(target=work, name=f"driver: {self._what}", daemon=True).start()
        await self.wait_idle(timeout_s)
        if errors:
            raise errors[0]
        return results[0]

    async def wait_idle(self, timeout_s: float) -> None:
        """Until nothing is under way. DriverError when it still is after `timeout_s`."""
        if self._busy is not None:
            await asyncio.wait({self._busy}, timeout=timeout_s)
            if not self._busy.done():
                raise DriverError(f"{self._what} does not answer (waited for {timeout_s:g} s)")
