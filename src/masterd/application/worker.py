"""Runs the application's code in a thread of its own, so that code that hangs costs its caller, never the leader.

The event loop goes on meanwhile: heartbeats are sent, the lease is kept. A step that outlasts its limit is given up:
its thread is asked to end (an exception is raised in it, which ends a loop in Python, not a call into C that blocks),
and the next job gets a new thread. What a given-up thread still computes reaches nobody. Code that blocks while it
holds the interpreter's lock stops the whole process, which nothing inside it can mend; then the lease decides.
"""

from __future__ import annotations

import asyncio
import ctypes
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from masterd.application.contract import GivenUp
from nodestore.errors import NodectlError

T = TypeVar("T")

_NUDGE_S = 0.5


class HungError(NodectlError):
    """A step outlasted its limit. `step`: the number of the one that did."""

    def __init__(self, step: int, limit_s: float) -> None:
        super().__init__(f"did not finish within {limit_s:g} s")
        self.step, self.limit_s = step, limit_s


class JobProgress:
    """Where a job is. It says so before each step that has a time limit of its own."""

    def __init__(self) -> None:
        self.step, self.step_begun_at = 0, time.monotonic()

    def begin_step(self, step: int) -> None:
        self.step_begun_at = time.monotonic()  # before the step is another one: it is looked at from another thread
        self.step = step


@dataclass(slots=True)
class _Job:
    work: Callable[[JobProgress], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    progress: JobProgress = field(default_factory=JobProgress)

    def run(self) -> None:
        try:
            result, error = self.work(self.progress), None
        except GivenUp:
            return
        except BaseException as raised:  # noqa: BLE001 - it belongs to whoever waits for the job, whatever it is
            result, error = None, raised
        try:
            self.loop.call_soon_threadsafe(self._resolve, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _resolve(self, result: Any, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


class _Thread:
    """A daemon thread: one that hangs does not hold up the end of the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="application", daemon=True)
        self._thread.start()

    def put(self, job: _Job | None) -> None:
        self._jobs.put(job)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def interrupt(self) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(GivenUp))

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                self.busy = True
                job.run()
                self.busy = False
        except GivenUp:
            return


class Worker:
    """One job at a time."""

    def __init__(self) -> None:
        self._thread: _Thread | None = None
        self._given_up: list[_Thread] = []

    @property
    def hung_count(self) -> int:
        """Threads that were given up and have not ended."""
        self._given_up = [thread for thread in self._given_up if thread.alive]
        return len(self._given_up)

    async def run(self, work: Callable[[JobProgress], T], limit_s: float) -> T:
        """What `work` returns or raises. HungError when one of its steps takes longer than `limit_s`; then, and when
        this is cancelled, whatever `work` touches must be thrown away: it may go on for a while."""
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        if self._thread is None:
            self._thread = _Thread()
        self._thread.put(job)
        watch = loop.call_later(limit_s, self._check_limit, job, limit_s, loop.time() + limit_s)
        try:
            result: T = await job.done
        except (HungError, asyncio.CancelledError):
            self._abandon_thread(loop)
            raise
        finally:
            job.done.cancel()
            watch.cancel()
        return result

    def _check_limit(self, job: _Job, limit_s: float, due: float) -> None:
        """Whether the step has hung. When this timer itself is late, the whole process was stopped or starved, and the
        step gets its time anew."""
        if job.done.done():
            return
        now = job.loop.time()
        step, since = job.progress.step, job.progress.step_begun_at  # in this order, as they are set in the other
        left_s = limit_s if now - due > limit_s / 4 else since + limit_s - time.monotonic()
        if left_s <= 0:
            job.done.set_exception(HungError(step, limit_s))
        else:
            job.loop.call_later(left_s, self._check_limit, job, limit_s, now + left_s)

    def _abandon_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._given_up.append(thread)
        self._interrupt_repeatedly(thread, loop)

    def _interrupt_repeatedly(self, thread: _Thread, loop: asyncio.AbstractEventLoop) -> None:
        """Ask it to end; again now and then, as an application may swallow what is raised in it. Never asked while it
        may be past its own handling of that: it ends by itself once it is idle."""
        if not thread.alive:
            return  # its identifier may be another thread's by now
        if not thread.busy:
            thread.put(None)
        elif not loop.is_closed():
            thread.interrupt()
            loop.call_later(_NUDGE_S, self._interrupt_repeatedly, thread, loop)

    def close(self) -> None:
        """No more jobs; a thread that still runs one ends after it."""
        if self._thread is not None:
            self._thread.put(None)
            self._thread = None
