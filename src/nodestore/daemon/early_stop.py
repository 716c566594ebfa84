"""A stop while a program starts: it ends at once, without a traceback. Imports only a few modules, so it is early.

`signals` replaces these handlers once the program can stop in order. Until then the program has changed nothing, so it
can end at any moment.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_quietly_on_signals() -> None:
    """From now on, SIGINT, SIGTERM and Ctrl-Break end this process with exit code 0, and SIGHUP does nothing.

    Without this, Ctrl-C during the imports would print a traceback, and a SIGHUP that requests only that files are
    read again would kill the process.
    """
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _end)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _ignore)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler, not SIG_IGN: an ignored signal stays ignored in the programs that this one starts."""
