"""Runs a program that uses the terminal, such as an editor, and waits for its end."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence


def run_foreground(argv: Sequence[str]) -> int:
    """Run a program with this process's stdin, stdout and stderr; return its exit code. OSError if it cannot start.

    While it runs, Ctrl-C is the program's business alone: this process ignores it.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        return subprocess.call(argv)
    before = signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the program would inherit
    try:
        return subprocess.call(argv)
    finally:
        signal.signal(signal.SIGINT, before)
