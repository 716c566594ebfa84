"""Being ended by a signal, Ctrl-C (also twice) or a terminal that goes away, without leaving anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from nodectl.demo.narrator import Narrator


class Ended(Exception):
    """A signal ended the demo; everything is removed. `code`: the exit code that says so."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Signals:
    """The first signal cancels the demo, which then cleans up; any later one waits for that."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._closing = False
        self._narrator: Narrator | None = None

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Call in a running loop's main task."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancel = task.cancel

        def received(number: int) -> None:
            if self.first is None and not self._closing:
                self.first = number
                cancel()
            elif self._narrator is not None:
                with contextlib.suppress(OSError):
                    self._narrator.line("still cleaning up; a moment")

        def handler(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(received, number)

        before = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                if signal.getsignal(number) is signal.SIG_IGN:  # nohup, say: whoever started us wants it so
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
        """From now on nothing is cancelled any more."""
        self._closing = True
        self._narrator = narrator
