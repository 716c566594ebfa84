"""The worker runs the application's code in a thread, which may hang, raise or be abandoned."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from masterd.application.worker import HungError, JobProgress, Worker, WorkerThread
from tests.support.waiting import eventually

_LIMIT_S = 0.2


class RecordingThread(WorkerThread):
    """A thread that counts its interrupts in place of being interrupted."""

    interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


def _threads() -> int:
    return sum(thread.name == "application" for thread in threading.enumerate())


async def test_it_returns_what_the_work_returns_and_raises_what_it_raises() -> None:
    """The worker returns the result of a job or raises its error."""
    worker = Worker()
    assert await worker.run(lambda _: threading.current_thread().name, _LIMIT_S) == "application"
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda _: 1 / 0, _LIMIT_S)
    worker.close()


async def test_a_loop_in_python_is_ended() -> None:
    """A job that loops raises HungError, its thread ends, and the next job has a new thread."""
    worker, before = Worker(), _threads()

    def spin(progress: JobProgress) -> None:
        progress.begin_step(7)
        while True:
            pass

    with pytest.raises(HungError, match=r"did not finish within 0\.2 s") as caught:
        await worker.run(spin, _LIMIT_S)
    assert caught.value.step == 7
    assert await worker.run(lambda _: 1, _LIMIT_S) == 1
    await eventually(lambda: worker.hung_count == 0, "the thread that hung has ended")
    worker.close()
    await eventually(lambda: _threads() == before, "no thread is left")


async def test_what_blocks_outside_python_is_counted_until_it_returns() -> None:
    """A thread blocked outside Python counts as hung until it returns; the next job runs at the same time."""
    worker, release = Worker(), threading.Event()
    with pytest.raises(HungError):
        await worker.run(lambda _: release.wait(30), _LIMIT_S)
    assert worker.hung_count == 1
    assert await worker.run(lambda _: "next", _LIMIT_S) == "next"
    release.set()
    await eventually(lambda: worker.hung_count == 0, "it has returned")
    worker.close()


async def test_each_step_has_its_own_time() -> None:
    """The limit applies to each step and not to the whole job."""
    worker = Worker()

    def steps(progress: JobProgress) -> int:
        begun = time.monotonic()
        step = 0
        while time.monotonic() < begun + 3 * _LIMIT_S:
            progress.begin_step(step)
            step += 1
        return step

    assert await worker.run(steps, _LIMIT_S) > 1
    worker.close()


async def test_a_process_that_was_stopped_does_not_blame_the_application() -> None:
    """If the timer is late because the process was stopped, the step gets its full time again."""
    worker, release = Worker(), threading.Event()
    running = asyncio.create_task(worker.run(lambda _: release.wait(30), _LIMIT_S))
    await asyncio.sleep(0)
    time.sleep(2 * _LIMIT_S)  # noqa: ASYNC251 - the loop is stopped on purpose, as by SIGSTOP
    await asyncio.sleep(0)
    release.set()
    assert await running
    worker.close()


async def test_a_cancelled_wait_gives_the_thread_up() -> None:
    """Cancelling the wait for a job abandons and ends its thread."""
    worker, begun = Worker(), threading.Event()

    def spin(_: JobProgress) -> None:
        begun.set()
        while True:
            pass

    running = asyncio.create_task(worker.run(spin, 60.0))
    await eventually(begun.is_set, "it runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: worker.hung_count == 0, "its thread has ended")
    worker.close()


async def test_a_thread_that_has_ended_is_not_interrupted() -> None:
    """An abandoned thread that has ended already is not interrupted: its identifier may belong to another thread."""
    thread = RecordingThread()
    worker = Worker(lambda: thread)
    thread.put(None)
    await eventually(lambda: not thread.alive, "the thread has ended")
    thread.busy = True  # as it stays if the exception arrived after the thread's last job
    running = asyncio.create_task(worker.run(lambda _: 1, 60.0))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert thread.interrupts == 0
    assert worker.hung_count == 0
