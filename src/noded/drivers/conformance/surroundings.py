"""Detects what a driver leaves behind: tasks, threads, processes and errors reported by the event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from noded.drivers.contract import Context
from noded.drivers.support import leftovers

POLL_S = 0.02


class Nonconformance(AssertionError):
    """The driver breaks its contract; the message says how, in one sentence."""


@contextmanager
def expect_no_loop_errors() -> Iterator[None]:
    """Raise Nonconformance if the event loop reports an error, such as an exception that was never retrieved."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    messages: list[str] = []

    def record(_: asyncio.AbstractEventLoop, report: dict[str, Any]) -> None:
        error = report.get("exception")
        messages.append(report["message"] + (f" ({describe_error(error)})" if error is not None else ""))

    loop.set_exception_handler(record)
    try:
        yield
        gc.collect()  # makes asyncio report tasks whose exception was never retrieved
        if messages:
            raise Nonconformance(f"the event loop reports an error: {messages[0]}")
    finally:
        loop.set_exception_handler(before)


class Surroundings:
    """The tasks, threads and child processes that existed when this object was created."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())
        self._children = set(_children())

    async def wait_restored(self, context: Context, timeout_s: float) -> None:
        """Wait until every task, thread and process that began after this object was created has ended.

        Raises Nonconformance if one still exists after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while left := self._tasks_left() or self._threads_left() or await self._processes_left(context):
            if time.monotonic() > deadline:
                for task in asyncio.all_tasks() - self._tasks - {asyncio.current_task()}:
                    task.cancel()  # else the driver's task group would wait for it for ever
                raise Nonconformance(f"after stop, the driver has left {left}")
            await asyncio.sleep(POLL_S)

    def _tasks_left(self) -> str:
        left = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        return f"the task {left.pop().get_coro()!r}" if left else ""

    def _threads_left(self) -> str:
        left = [thread for thread in threading.enumerate() if thread not in self._threads]
        left = [thread for thread in left if not thread.name.startswith("asyncio")]  # of the event loop's own pool
        return f"the thread {left[0].name!r}" if left else ""

    async def _processes_left(self, context: Context) -> str:
        pids = [process.pid for process in _children() if process not in self._children]
        pids += [identity.pid for identity in await leftovers.find(context)]
        return f"the process {pids[0]}" if pids else ""


def _children() -> list[psutil.Process]:
    processes = psutil.Process().children(recursive=True)
    return [process for process in processes if _is_running(process)]


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
