"""What a lost lease tells of the tries to keep it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from nodestore.errors import LeaseLost
from nodestore.etcd_stream import BrokenStream
from nodestore.lease import Lease, now


class _Etcd:
    """Refuses the first `refusals` keepalives and never answers the others."""

    refusal: str | None = None

    def __init__(self, refusals: int) -> None:
        self._refusals = refusals
        self.asked = 0

    async def open_stream(self, method: str) -> Any:
        self.asked += 1
        if self.asked > self._refusals:
            await asyncio.Event().wait()
        raise BrokenStream("permission denied")


async def _lost(etcd: _Etcd, ttl_s: float = 0.4) -> str:
    with pytest.raises(LeaseLost) as caught:
        await Lease(cast(Any, etcd), 1, ttl_s, now()).keep()
    return str(caught.value)


async def test_a_last_try_without_an_answer_does_not_hide_what_etcd_said() -> None:
    """It may have been cut short by the end of the lease; and a member may fall silent after it refused."""
    etcd = _Etcd(refusals=1)
    assert await _lost(etcd) == "no good keepalive within its 0.4 s: no token in time; before that: permission denied"
    assert etcd.asked > 1


async def test_what_was_said_all_the_while_is_told_once() -> None:
    """As is silence."""
    assert (await _lost(_Etcd(refusals=10**6))).endswith("0.4 s: permission denied")
    assert (await _lost(_Etcd(refusals=0))).endswith("0.4 s: no token in time")
    assert (await _lost(_Etcd(refusals=0), ttl_s=-1.0)).endswith("not even tried: this process was held up")
