"""Read index: one linearizable read of `leader` and `head` confirms the term for all callers that came before it.

A deposed leader learns from this read that it was deposed. So a client's read that waits for it is linearizable, and a
deposed leader never refuses a command because of its outdated state.
"""

from __future__ import annotations

import asyncio
import time

from nodestore.cluster.election import Fence
from nodestore.errors import Garbage, LeadershipLost, NodectlError
from nodestore.etcd.session import Etcd, op_get
from nodestore.schema.keys import Keys
from nodestore.schema.models import Head, decode
from nodestore.support.tasks import background_task


class ReadIndex:
    """Confirms the term. At most one read is in flight; callers that come meanwhile share the next one."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence) -> None:
        self._etcd, self._keys, self._fence = etcd, keys, fence
        self._next: asyncio.Future[int] | None = None
        self._runner: asyncio.Task[None] | None = None
        self.open_since: float | None = None
        """Monotonic time at which the read in flight was sent; None if none is in flight."""
        self.revision = 0
        """etcd's revision at the newest confirmation. Everything written before that confirmation is not above it."""

    async def confirm(self) -> int:
        """Confirm that this masterd still leads; return the index of `head`, read from etcd after this call began.

        Raises LeadershipLost if the term is over, Unavailable if etcd did not answer in time, Garbage if `head` is
        unreadable.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        waiting = self._next
        if self._runner is None or self._runner.done():
            self._runner = background_task(self._run(), name="confirm the term")
        return await asyncio.shield(waiting)

    async def _run(self) -> None:
        while self._next is not None:
            waiting, self._next = self._next, None
            try:
                waiting.set_result(await self._timed_read())
            except NodectlError as error:
                _fail(waiting, error)
            except BaseException:
                _fail(waiting, LeadershipLost(f"term {self._fence.term} is over"))
                raise

    async def _timed_read(self) -> int:
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
        self.revision = max(self.revision, result.revision)
        head = result.range(0).first
        if head is None:
            return 0
        try:
            return decode(Head, head.value, self._keys.head).index
        except Garbage as error:
            raise Garbage(f"no commit is possible: {error}") from None

    async def close(self) -> None:
        """End the read in flight; every waiting caller gets LeadershipLost, even if this call is cancelled.

        A cancelled future would cancel its callers, and an unresolved one would block them for ever.
        """
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
    waiting.exception()  # marks it as retrieved: asyncio must not log it if all callers were cancelled
