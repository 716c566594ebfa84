"""Turns requests to stop into an asyncio event: SIGTERM and SIGINT; on Windows CTRL_C and CTRL_BREAK too."""

from __future__ import annotations

import asyncio
import signal
import sys
from types import FrameType


def stop_event() -> asyncio.Event:
    """Return an event that is set once this process is asked to stop. Call it in the main thread, in a running loop."""
    # On Windows no event loop has add_signal_handler. There a plain handler runs in the main thread. The Proactor loop
    # wakes up for it, because asyncio has registered its own socket with signal.set_wakeup_fd.
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
