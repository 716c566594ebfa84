"""Runs tasks together until the first of them ends.

If the owner continues after a failure, use this module instead of asyncio.TaskGroup. If a group fails at the moment
its owner is cancelled, the group raises only the failure, and the cancellation is lost. On Python 3.11 the
owner's count of cancellations also stays wrong. The observed effect was a masterd that kept running without its lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


def log_failure(task: asyncio.Task[Any]) -> None:
    """Log the error that ended a task. A callback for `add_done_callback` of tasks that nothing awaits."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s ended: %s: %s", task.get_name(), type(error).__name__, error, exc_info=error)


class CancelledTasks:
    """Cancelled tasks whose cleanup is awaited later."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def cancel(self, *tasks: asyncio.Task[Any]) -> None:
        """Cancel these tasks. Their results and errors are dropped."""
        for task in tasks:
            task.cancel()
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log it as never retrieved

    async def wait_ended(self) -> None:
        """Wait until all of them have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def run_until_first_ends(**coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run each coroutine as a task with the given name until one ends; then cancel the others and await their end.

    Raises the error of the task that ended first. If several ended at once, raises the first of their errors, in the
    order of the arguments. Cancellation of the caller takes precedence over these errors.
    """
    tasks = [asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done() and not task.cancelled()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
