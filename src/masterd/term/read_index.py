"""Confirming the term: one linearizable look at `leader` and `head`, shared by all that wait, *sent after they came*.

That is what makes a read linearizable and a refusal true: a deposed leader's look shows that it was deposed.
"""

from __future__ import annotations

import asyncio
import time

from nodestore.cluster.election import Fence
from nodestore.errors import Garbage, LeadershipLost, NodectlError
from nodestore.etcd.session import Etcd, op_get
from nodestore.schema.keys import Keys
from nodestore.schema.models import Head, decode


class ReadIndex:
    """At most one look is under way; who comes meanwhile shares the next one."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence) -> None:
        self._etcd, self._keys, self._fence = etcd, keys, fence
        self._next: asyncio.Future[int] | None = None
        self._runner: asyncio.Task[None] | None = None
        self.open_since: float | None = None
        """Since when a look is under way, by the monotonic clock; None when none is."""

    async def confirm(self) -> int:
        """The index that `head` had after this call began, the term being ours.

        LeadershipLost when it is not; Unavailable when nobody could say in time; Garbage when `head` holds none.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        waiting = self._next
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run(), name="confirm the term")
        return await asyncio.shield(waiting)

    async def _run(self) -> None:
        while self._next is not None:
            waiting, self._next = self._next, None
            try:
                waiting.set_result(await self._look())
            except NodectlError as error:
                _fail(waiting, error)
            except BaseException:
                _fail(waiting, LeadershipLost(f"term {self._fence.term} is over"))
                raise

    async def _look(self) -> int:
        self.open_since = time.monotonic()
        try:
            return await self._read()
        finally:
            self.open_since = None

    async def _read(self) -> int:
        result = await self._etcd.txn(
            self._fence.compares(self._keys), [op_get(self._keys.head)], [op_get(self._keys.leader)]
        )
        if not result.succeeded:
            raise LeadershipLost(f"term {self._fence.term} is over")
        head = result.range(0).first
        if head is None:
            return 0
        try:
            return decode(Head, head.value, self._keys.head).index
        except Garbage as error:
            raise Garbage(f"commits have stopped: {error}") from None

    async def close(self) -> None:
        """The term is over. Who waits is told so, also when this is cancelled in between, as at a stop: a cancelled
        future would cancel the waiter, and one that nobody resolves would hold it for ever."""
        try:
            if self._runner is not None:
                self._runner.cancel()
                await asyncio.gather(self._runner, return_exceptions=True)
        finally:
            if self._next is not None:
                waiting, self._next = self._next, None
                _fail(waiting, LeadershipLost(f"term {self._fence.term} is over"))


def _fail(waiting: asyncio.Future[int], error: NodectlError) -> None:
    waiting.set_exception(error)
    waiting.exception()  # every waiter may have gone away: that is no error of ours
