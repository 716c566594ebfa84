"""One run of a program: its end, its health, and the signal that makes it reload."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from pathlib import Path

from noded.drivers.contract import Context
from noded.drivers.support.health import Health
from noded.drivers.support.output import OutputCopier
from nodestore.processes import child_processes

_OUTPUT_WAIT_S = 0.2
_SIGNAL_POLL_S = 0.1
_HANDLER_WAIT_S = 1.0
"""For how long after its start a program may lack a handler for the reload signal, whatever `settle_s` is."""


class ProgramRun:
    """One run of the program, from its start to its end."""

    def __init__(self, child: child_processes.Child, output: OutputCopier, cwd: Path, health: Health | None) -> None:
        self.child = child
        self.output = output
        self.health = health
        self.exit_code: int | None = None
        self.reload_signal: int | None = None
        """The signal to be sent once the program can handle it; None if none is due."""
        self._started_at = time.monotonic()
        self._reloads: asyncio.Task[None] | None = None
        self._checks: asyncio.Task[None] | None = None
        self._cwd = cwd
        self._cwd_id = _identity(cwd)

    @property
    def has_lost_cwd(self) -> bool:
        """Whether its working directory was removed or replaced since the start."""
        return _identity(self._cwd) != self._cwd_id

    @property
    def is_unhealthy(self) -> bool:
        """Whether the program runs and its health checks failed too often."""
        return self.exit_code is None and self.health is not None and self.health.is_unhealthy

    def settling(self, settle_s: float) -> tuple[float, str]:
        """For how many more seconds the program must run until it counts as ready, and what has to happen until then.

        With health checks, the first one that succeeds decides.
        """
        if self.reload_signal is not None:
            return math.inf, f"the program has no handler for {signal.Signals(self.reload_signal).name} yet"
        if self.health is not None:
            return (0.0, "") if self.health.has_passed else (math.inf, "no health check has succeeded since its start")
        left_s = max(0.0, settle_s - self.age_s)
        return left_s, f"the program counts as ready once it has run for {settle_s:g} s" if left_s else ""

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._started_at

    def start_watching(self, context: Context) -> None:
        """Start the background tasks that wait for the program's end and check its health."""
        context.tasks.create_task(self._watch(context))
        if self.health is not None:
            self._checks = context.tasks.create_task(self.health.check_forever())

    async def end_checks(self) -> None:
        """Stop the health checks, the one that is running included, and send no signal any more."""
        if tasks := self._cancel_tasks():
            await asyncio.wait(tasks)

    def request_reload(self, signal_number: int, context: Context, settle_s: float) -> None:
        """Send the signal as soon as the program can handle it: before that, it would kill the program."""
        self.reload_signal = signal_number
        if not self._send_reload(settle_s) and (self._reloads is None or self._reloads.done()):
            self._reloads = context.tasks.create_task(self._keep_trying_to_reload(context, settle_s))

    async def _keep_trying_to_reload(self, context: Context, settle_s: float) -> None:
        while not self._send_reload(settle_s):
            await asyncio.sleep(_SIGNAL_POLL_S)
        context.wake()

    def _send_reload(self, settle_s: float) -> bool:
        """Send the signal that is due, unless it would kill the program. Returns whether none is due any more."""
        number = self.reload_signal
        if number is None or self.exit_code is not None or not child_processes.is_alive(self.child.identity):
            return True  # a program that has ended reads its document when it is started again
        handles = child_processes.handles_signal(self.child.pid, number)
        if not (self.age_s >= settle_s if handles is None else handles):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child.pid, number)
        self.reload_signal = None
        return True

    def has_no_handler(self, settle_s: float) -> bool:
        """Whether a signal is due that the program still cannot handle, although it has settled."""
        return self.reload_signal is not None and self.age_s >= max(settle_s, _HANDLER_WAIT_S)

    async def _watch(self, context: Context) -> None:
        """Wait for the program's end, record its exit code and wake noded."""
        code = await self.child.wait()
        self._cancel_tasks()
        await asyncio.to_thread(self.output.join, _OUTPUT_WAIT_S)  # the last line of output becomes part of the error
        self.exit_code = code
        context.wake()

    def _cancel_tasks(self) -> list[asyncio.Task[None]]:
        tasks = [task for task in (self._checks, self._reloads) if task is not None]
        for task in tasks:
            task.cancel()
        return tasks


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = directory.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
