"""The thread of one sink. A sink may block for ever, such as a file on a server that does not answer.

The thread is a daemon: it does not keep the process from ending. There is one, whatever happens: a call that hangs is
awaited, and no second one begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable

Call = Callable[[], None]


class SinkThread:
    """Runs calls one after another, each awaited by its caller. The thread starts with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Call, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: asyncio.Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a call has not ended."""
        return self._pending is not None and not self._pending.done()

    def start(self, call: Call) -> asyncio.Future[None]:
        """Start a call; return its future, which gets the OSError that the call raises. The thread must not be busy."""
        if self.is_busy:
            raise RuntimeError("the call before has not ended")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._pending = asyncio.get_running_loop().create_future()
        self._pending.add_done_callback(_retrieve)
        self._calls.put((call, self._pending))
        return self._pending

    def end(self) -> None:
        """Let the thread end after its present call."""
        if self._thread is not None:
            self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            error: BaseException | None = None
            try:
                call()
            except BaseException as failure:  # noqa: BLE001 - the caller gets it
                error = failure
            with contextlib.suppress(RuntimeError):  # the event loop was closed meanwhile
                future.get_loop().call_soon_threadsafe(_settle, future, error)


def _retrieve(future: asyncio.Future[None]) -> None:
    """Keep asyncio from reporting the error of a call whose caller was cancelled."""
    if not future.cancelled():
        future.exception()


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
