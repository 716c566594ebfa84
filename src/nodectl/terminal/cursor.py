"""Shows the cursor of a terminal again if a signal ends nodectl while a progress line hides it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"


@contextlib.contextmanager
def cursor_restored(terminal: TextIO) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP first show the cursor, and then end the process as they always do."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.write(terminal.fileno(), _SHOW_CURSOR.encode())  # not `terminal.write`: it may be in use just now
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # else the command handles it itself
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
