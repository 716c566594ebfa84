"""Confirmation of the term for reads: every waiter gets its outcome."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from masterd.term.read_index import ReadIndex
from nodestore.cluster.election import Fence
from nodestore.errors import LeadershipLost
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Term


class SilentEtcd:
    """An etcd that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def txn(self, *_: Any, **__: Any) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_a_close_that_is_cancelled_leaves_nobody_waiting() -> None:
    """Waiters of the read in flight and of the next one are all released."""
    etcd = SilentEtcd()
    confirmation = ReadIndex(cast(Etcd, etcd), Keys("test"), Fence(Term(1, 10), 5, "nonce"))
    first = asyncio.create_task(confirmation.confirm())
    await etcd.asked.wait()
    second = asyncio.create_task(confirmation.confirm())
    await asyncio.sleep(0)
    closing = asyncio.create_task(confirmation.close())
    await asyncio.sleep(0)
    closing.cancel()
    found = await asyncio.wait_for(asyncio.gather(first, second, closing, return_exceptions=True), 30.0)
    assert [type(item) for item in found] == [LeadershipLost, LeadershipLost, asyncio.CancelledError]
