"""`SteadyLoad`: commands sent at a steady pace, without waiting for the previous answer."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from nodestore.support.tasks import background_task


class SteadyLoad(ABC):
    """An asynchronous context manager that sends commands until its block ends.

    It then waits until every command has an answer or has failed. If the block raises, it cancels the commands without
    an answer.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None

    @abstractmethod
    async def _send_loop(self) -> None:
        """Send commands at the pace of the subclass, until cancelled."""

    @property
    def _in_flight(self) -> int:
        return len(self._tasks)

    def _start_sending(self, sending: Coroutine[Any, Any, None], name: str) -> None:
        """Send one command in a task of its own, which the end of the block awaits."""
        task = background_task(sending, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Self:
        self._ticker = background_task(self._send_loop(), name=type(self).__name__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._ticker is not None
        self._ticker.cancel()
        if kind is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(self._ticker, *self._tasks, return_exceptions=True)
