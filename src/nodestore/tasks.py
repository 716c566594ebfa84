"""Running tasks together until the first of them ends.

asyncio.TaskGroup is not used where its owner goes on after a failure: when a group fails in the very moment in which
its owner is cancelled, it raises the failure alone, the cancellation is forgotten, and on Python 3.11 the owner's
count of cancellations stays wrong afterwards (seen as a masterd that lived on with a lease that was gone).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def together(**coroutines: Coroutine[Any, Any, Any]) -> None:
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
