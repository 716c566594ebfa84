"""Running tasks together until the first of them ends.

asyncio.TaskGroup is not used where its owner goes on after a failure: when a group fails in the very moment in which
its owner is cancelled, it raises the failure alone, the cancellation is forgotten, and on Python 3.11 the owner's
count of cancellations stays wrong afterwards (seen as a masterd that lived on with a lease that was gone).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class CancelledTasks:
    """Tasks that were told to end and do nothing any more but tidy up, which nobody needs to wait for just now."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def cancel(self, *tasks: asyncio.Task[Any]) -> None:
        """Cancel these; how they end is of no interest."""
        for task in tasks:
            task.cancel()
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or the loop would complain that nobody has looked

    async def wait_ended(self) -> None:
        """Until all of them have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def run_until_first_ends(**coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run these, each a task named as given, until one ends; then cancel the others and wait for their end.

    Raises what the first to end raised; of several that ended at once, the one named first. Being cancelled always
    wins over whatever they raise.
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
