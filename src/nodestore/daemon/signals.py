"""Being asked to stop: SIGTERM and SIGINT, on Windows CTRL_C and CTRL_BREAK, as an event of the running loop."""

from __future__ import annotations

import asyncio
import signal
import sys
from types import FrameType


def stop_event() -> asyncio.Event:
    """An event that is set once this process is asked to stop. Call it in the main thread, in a running loop.

    On Windows no event loop has add_signal_handler. There the plain handler runs in the main thread, which the
    Proactor loop leaves its wait for, because asyncio has registered its own socket with signal.set_wakeup_fd.
    """
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    if sys.platform == "win32":

        def handler(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(event.set)

        for number in (signal.SIGINT, signal.SIGBREAK, signal.SIGTERM):
            signal.signal(number, handler)
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, event.set)
    return event
