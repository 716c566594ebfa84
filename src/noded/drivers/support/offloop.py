"""Runs blocking calls on a thread, for a driver that uses a network share or a device that may not respond."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from noded.drivers.contract import DriverError

T = TypeVar("T")


class OffLoop:
    """Runs one blocking call at a time, each on a daemon thread, which does not delay the end of the process.

    A call cannot be interrupted. If its caller is cancelled or times out, the call continues, and the next call waits
    for it. So there is never more than one thread. what: the name of the resource, for errors.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._busy: asyncio.Future[None] | None = None

    async def run(self, call: Callable[[], T], timeout_s: float) -> T:
        """Run `call`; return its result or raise its error. Raises DriverError if it takes longer than `timeout_s`."""
        await self.wait_idle(timeout_s)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        results: list[T] = []
        errors: list[Exception] = []

        def work() -> None:
            try:
                results.append(call())
            except Exception as error:  # noqa: BLE001 - raised again below, in the loop's thread
                errors.append(error)
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller is waiting
                loop.call_soon_threadsafe(done.set_result, None)

        self._busy = done
        threading.Thread(target=work, name=f"driver: {self._what}", daemon=True).start()
        await self.wait_idle(timeout_s)
        if errors:
            raise errors[0]
        return results[0]

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until no call is running. Raises DriverError after `timeout_s` seconds."""
        if self._busy is not None:
            await asyncio.wait({self._busy}, timeout=timeout_s)
            if not self._busy.done():
                raise DriverError(f"{self._what} does not answer (waited for {timeout_s:g} s)")
