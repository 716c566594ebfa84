"""Confirmation of the term for reads: every waiter gets its outcome."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from masterd.term.read_index import ReadIndex
from nodestore.cluster.election import Fence
from nodestore.errors import LeadershipLost
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Head, Term
from tests.support.fakes.first_term import KEYS, first_term
from tests.support.fakes.link import FINE, Fate


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


async def test_a_caller_gets_what_was_read_after_it_came() -> None:
    """A read that is under way when it comes may have been answered before, so the next one counts."""
    async with first_term() as term:
        read_index = ReadIndex(term.etcd, KEYS, term.fence)
        callers: list[asyncio.Future[int]] = []

        def before(request: Any) -> Fate:
            if not callers:  # the first read arrives; then a commit lands, and another caller comes
                callers.append(asyncio.ensure_future(_later()))
            return FINE

        async def _later() -> int:
            await term.etcd.put(KEYS.head, Head(index=8, nonce="later").encode())
            return await read_index.confirm()

        term.put(KEYS.head, Head(index=7, nonce="earlier").encode())
        term.before = before
        await read_index.confirm()
        assert await callers[0] == 8
        assert len(term.txns) == 2
        await read_index.close()


async def test_callers_that_wait_share_one_read() -> None:
    async with first_term() as term:
        read_index = ReadIndex(term.etcd, KEYS, term.fence)
        assert await asyncio.gather(*(read_index.confirm() for _ in range(5))) == [0] * 5
        assert len(term.txns) == 1
        await read_index.close()


@pytest.mark.parametrize("key", [KEYS.leader, KEYS.epoch])
async def test_a_deposed_leader_confirms_nothing(key: str) -> None:
    async with first_term() as term:
        read_index = ReadIndex(term.etcd, KEYS, term.fence)
        term.put(key)
        with pytest.raises(LeadershipLost):
            await read_index.confirm()
        await read_index.close()
