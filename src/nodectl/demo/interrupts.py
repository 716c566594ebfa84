"""Signals during the demo: Ctrl-C (also twice), SIGTERM or a closed terminal ends it after a complete cleanup."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from nodectl.demo.narrator import Narrator


class Ended(Exception):
    """A signal ended the demo, and everything was removed. `code`: the exit code, 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Signals:
    """Signal handlers: the first signal cancels the demo, which then cleans up; later signals only print a line."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._closing = False
        self._narrator: Narrator | None = None

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle signals until the block ends. Must be called in the main task of a running event loop."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancel = task.cancel

        def received(number: int) -> None:
            if self.first is None and not self._closing:
                self.first = number
                cancel()
            elif self._narrator is not None:
                with contextlib.suppress(OSError):
                    self._narrator.line("still cleaning up, please wait")

        def handler(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(received, number)

        before = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                if signal.getsignal(number) is signal.SIG_IGN:  # ignored by the caller's choice, as with nohup
                    continue
                before[number] = signal.getsignal(number)
                if sys.platform == "win32":
                    signal.signal(number, handler)
                else:
                    loop.add_signal_handler(number, received, number)
        try:
            yield
        finally:
            for number, old in before.items():
                if sys.platform != "win32":
                    loop.remove_signal_handler(number)
                signal.signal(number, old)

    def begin_closing(self, narrator: Narrator) -> None:
        """Ignore signals from now on, except for a line on `narrator`: the cleanup has begun."""
        self._closing = True
        self._narrator = narrator
