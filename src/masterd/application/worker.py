"""Runs the application's code in a separate thread. If the code hangs, its call fails, and the leader continues.

The event loop keeps running meanwhile: it sends heartbeats and renews the lease. A job runs in steps, such as the
commands of a batch. If a step exceeds its time limit, its thread is abandoned, and the next job gets a new thread. An
exception is raised in the abandoned thread; this ends a loop in Python, but not a blocking call into C. Results of an
abandoned thread are discarded. Code that blocks while it holds the GIL stops the whole process. No thread of the
process can prevent that; the lease expires, and another masterd takes over.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from masterd.application.contract import GivenUp
from nodestore.errors import NodectlError

T = TypeVar("T")

_INTERRUPT_EVERY_S = 0.5
HUNG_THREADS_MAX = 16
"""So many abandoned threads of the process may hang before the application is no longer asked again for what it hung
at. Each of them keeps its stack and a copy of the state, and a thread that blocks outside Python never ends."""


class HungError(NodectlError):
    """A step of a job exceeded its time limit. step: the number of the step. limit_s: the limit in seconds.

    node: the node whose spec was being derived then; None if the application was in another call.
    """

    def __init__(self, step: int, limit_s: float, node: str | None = None) -> None:
        where = "" if node is None else f" in desired(node {node})"
        super().__init__(f"did not finish within {limit_s:g} s{where}")
        self.step, self.limit_s, self.node = step, limit_s, node


class JobProgress:
    """The current step of a job. The job calls `begin_step` before each step; each step has its own time limit.

    end_by: from this time on, by the monotonic clock, the job should begin no further step.
    """

    def __init__(self, end_by: float = math.inf) -> None:
        self._end_by = end_by
        self.step, self.step_begun_at = 0, time.monotonic()

    def begin_step(self, step: int) -> None:
        self.step_begun_at = time.monotonic()  # before `step`, because `Worker._check_limit` reads `step` first
        self.step = step

    @property
    def is_out_of_time(self) -> bool:
        """Whether the current step began too late."""
        return self.step_begun_at >= self._end_by


@dataclass(slots=True)
class _Job:
    work: Callable[[JobProgress], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    node_of: Callable[[], str | None]
    progress: JobProgress = field(default_factory=JobProgress)

    def run(self) -> None:
        try:
            result, error = self.work(self.progress), None
        except GivenUp:
            raise  # it ends the thread
        except BaseException as raised:  # noqa: BLE001 - passed on to the caller of the job
            result, error = None, raised
        try:
            self.loop.call_soon_threadsafe(self._resolve, result, error)
        except RuntimeError:  # the loop is closed, so no caller waits for the result
            return

    def _resolve(self, result: Any, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


_hung: dict[WorkerThread, str | None] = {}
"""All abandoned threads of the process, for all workers, terms and rehearsals; by thread, the node that it derives."""


def hung_nodes() -> frozenset[str]:
    """The nodes for which an abandoned thread of this process still derives the spec."""
    return frozenset(node for node in _still_hung().values() if node is not None)


def too_many_hang() -> bool:
    """Whether as many abandoned threads of this process have not ended as may hang."""
    return len(_still_hung()) >= HUNG_THREADS_MAX


def _still_hung() -> dict[WorkerThread, str | None]:
    for thread in [thread for thread in _hung if not thread.alive]:
        del _hung[thread]
    return _hung


class WorkerThread:
    """A daemon thread that runs jobs. As a daemon it does not delay the end of the process if it hangs."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="application", daemon=True)
        self._thread.start()

    def put(self, job: _Job | None) -> None:
        """Run `job` after the ones before it; None ends the thread."""
        self._jobs.put(job)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def interrupt(self) -> None:
        """Raise GivenUp in the thread, at its next Python instruction."""
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
    """Runs one job at a time in its thread. new_thread: starts the threads."""

    def __init__(self, new_thread: Callable[[], WorkerThread] = WorkerThread) -> None:
        self._new_thread = new_thread
        self._thread: WorkerThread | None = None
        self._abandoned: list[WorkerThread] = []

    @property
    def hung_count(self) -> int:
        """The number of abandoned threads that have not ended."""
        self._abandoned = [thread for thread in self._abandoned if thread.alive]
        return len(self._abandoned)

    async def run(
        self, work: Callable[[JobProgress], T], limit_s: float, node_of: Callable[[], str | None] = lambda: None
    ) -> T:
        """Run `work` in the thread and return its result or raise its exception.

        HungError if a step takes longer than `limit_s` seconds. node_of: returns the node whose spec `work` derives at
        present, for that error. It is called before the thread is interrupted.

        After HungError or a cancellation `work` may still run for a while. So discard every object that it changes.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future(), node_of)
        if self._thread is None:
            self._thread = self._new_thread()
        self._thread.put(job)
        watch = loop.call_later(limit_s, self._check_limit, job, limit_s, loop.time() + limit_s)
        try:
            result: T = await job.done
        except (HungError, asyncio.CancelledError) as error:
            self._abandon_thread(loop, error.node if isinstance(error, HungError) else node_of())
            raise
        finally:
            job.done.cancel()
            watch.cancel()
        return result

    def _check_limit(self, job: _Job, limit_s: float, due: float) -> None:
        """Fail the job if its current step has exceeded the limit; else check again when it is due.

        If this timer itself is late, the whole process was stopped or starved; then the step gets its full time again.
        """
        if job.done.done():
            return
        now = job.loop.time()
        step, since = job.progress.step, job.progress.step_begun_at  # `step` first: `begin_step` sets it last
        left_s = limit_s if now - due > limit_s / 4 else since + limit_s - time.monotonic()
        if left_s <= 0:
            job.done.set_exception(HungError(step, limit_s, job.node_of()))
        else:
            job.loop.call_later(left_s, self._check_limit, job, limit_s, now + left_s)

    def _abandon_thread(self, loop: asyncio.AbstractEventLoop, node: str | None) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._abandoned.append(thread)
        _hung[thread] = node
        self._interrupt_repeatedly(thread, loop)

    def _interrupt_repeatedly(self, thread: WorkerThread, loop: asyncio.AbstractEventLoop) -> None:
        """Raise GivenUp in an abandoned thread, every 0.5 s until it ends: an application may catch the exception.

        An idle thread is not interrupted, because it may be outside the `try` block that catches GivenUp. It gets the
        job None instead, which ends it.
        """
        if not thread.alive:
            return  # its identifier may have been reused by another thread
        if not thread.busy:
            thread.put(None)
        elif not loop.is_closed():
            thread.interrupt()
            loop.call_later(_INTERRUPT_EVERY_S, self._interrupt_repeatedly, thread, loop)

    def close(self) -> None:
        """Accept no more jobs. A running job is finished first; then the thread ends."""
        if self._thread is not None:
            self._thread.put(None)
            self._thread = None
