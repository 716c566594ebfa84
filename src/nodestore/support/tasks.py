"""Starts tasks so that no failure stays unseen, and runs tasks together until the first of them ends.

`asyncio.create_task` alone hides a failure until the task is garbage-collected, or for ever. So every task of the
programs is started here or by an asyncio.TaskGroup; tests/unit/architecture/test_tasks.py enforces this.

- `owned_task`: its owner awaits it and handles its error.
- `background_task`: nothing awaits it. If it fails, the error is logged at once. With `eternal`, it must run until it
  is cancelled, and any other end is logged as an error too. `on_end` lets the owner react.
- `run_until_first_ends` and asyncio.TaskGroup: a failure ends the other tasks and is raised in the owner.

If the owner continues after a failure, use this module instead of asyncio.TaskGroup. If a group fails at the moment
its owner is cancelled, the group raises only the failure, and the cancellation is lost. On Python 3.11 the
owner's count of cancellations also stays wrong. The observed effect was a masterd that kept running without its lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from nodestore.errors import NodectlError

log = logging.getLogger(__name__)

T = TypeVar("T")


def owned_task(work: Awaitable[T], *, name: str | None = None) -> asyncio.Task[T]:
    """Start a task whose owner awaits it, or passes it to `CancelledTasks`, and so gets its error."""
    task: asyncio.Task[T] = asyncio.ensure_future(work)
    if name is not None and isinstance(task, asyncio.Task):
        task.set_name(name)
    return task


def background_task(
    work: Coroutine[Any, Any, T], *, name: str, eternal: bool = False, on_end: Callable[[], None] | None = None
) -> asyncio.Task[T]:
    """Start a task that nothing awaits. Logs its error; if it is `eternal`, logs every end but a cancellation.

    on_end: called after any other end than a cancellation.
    """
    task = asyncio.create_task(work, name=name)

    def report(done: asyncio.Task[T]) -> None:
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            log.error("the task %r failed: %r", name, error, exc_info=error)
        elif eternal:
            log.error("the task %r ended, although it must run until this program stops", name)
        if on_end is not None and (error is not None or eternal):
            on_end()

    task.add_done_callback(report)
    return task


class CancelledTasks:
    """Cancelled tasks whose cleanup is awaited later."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def cancel(self, *tasks: asyncio.Task[Any]) -> None:
        """Cancel these tasks. Their results are dropped; errors other than NodectlError are logged."""
        for task in tasks:
            task.cancel()
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.DEBUG if isinstance(error, NodectlError) else logging.ERROR
            log.log(level, "the task %r failed before or while it was cancelled: %r", task.get_name(), error)

    async def wait_ended(self) -> None:
        """Wait until all of them have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def run_until_first_ends(**coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run each coroutine as a task with the given name until one ends; then cancel the others and await their end.

    Raises the error of the task that ended first. If several ended at once, raises the first of their errors, in the
    order of the arguments. Cancellation of the caller takes precedence over these errors.
    """
    tasks = [owned_task(coroutine, name=name) for name, coroutine in coroutines.items()]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done() and not task.cancelled()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
