"""Turns signals and console events into asyncio events: a request to stop, and a request to read files again.

| | effect |
| --- | --- |
| SIGTERM, SIGINT, Ctrl-C, Ctrl-Break | stop |
| SIGHUP | read files again; stop if it came because the terminal of this process was closed |
| Windows: the console is closed, the user logs off, the PC shuts down | stop, see `console.py` |
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

from nodestore.daemon import console


@dataclass(frozen=True)
class SignalEvents:
    """What this process was asked for."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    reread: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether certificates, passwords and the log level are to be read again."""


def handle_signals() -> SignalEvents:
    """Handle signals from now on. Call it in the main thread, in a running loop."""
    # On Windows no event loop has add_signal_handler. There a plain handler runs in the main thread. The Proactor loop
    # wakes up for it, because asyncio has registered its own socket with signal.set_wakeup_fd.
    loop = asyncio.get_running_loop()
    requests = SignalEvents()
    if sys.platform == "win32":

        def handler(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(requests.stop.set)

        for number in (signal.SIGINT, signal.SIGBREAK, signal.SIGTERM):
            signal.signal(number, handler)
        console.handle_events(lambda: loop.call_soon_threadsafe(requests.stop.set))
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, requests.stop.set)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # it is ignored after `nohup`, by the caller's choice
            loop.add_signal_handler(signal.SIGHUP, hangup_handler(requests, has_terminal))
    return requests


def hangup_handler(requests: SignalEvents, has_terminal: Callable[[], bool]) -> Callable[[], None]:
    """A handler of SIGHUP. `has_terminal`: whether this process has a controlling terminal now.

    The kernel and shells send SIGHUP when a terminal is closed, and operators send it to make a service read files.
    """
    had_terminal = has_terminal()

    def handler() -> None:
        if had_terminal and not has_terminal():
            requests.stop.set()
        else:
            requests.reread.set()

    return handler


def has_terminal() -> bool:
    """Whether this process has a controlling terminal. A closed terminal is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
