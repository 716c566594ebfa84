"""The error of a lost lease describes the failed attempts to renew it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from nodestore.errors import LeaseLost
from nodestore.etcd.lease import Lease, boottime_s
from nodestore.etcd.stream import BrokenStream
from tests.support.fakes.clock import VirtualTime


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


def _lost(etcd: _Etcd, ttl_s: float = 2.0) -> str:
    async def kept() -> None:
        await Lease(cast(Any, etcd), 1, ttl_s, boottime_s()).keep_alive()

    with VirtualTime() as world, pytest.raises(LeaseLost) as caught:
        world.run(kept())
    return str(caught.value)


def test_a_last_try_without_an_answer_does_not_hide_what_etcd_said() -> None:
    """It may have been cut short by the end of the lease; and a member may fall silent after it refused."""
    etcd = _Etcd(refusals=1)
    lost = _lost(etcd)
    assert lost == "no keepalive was answered within 2 s: etcd issued no token in time; before that: permission denied"
    assert etcd.asked > 2


def test_what_was_said_all_the_while_is_told_once() -> None:
    """Equal errors are reported once, and so are attempts without an answer."""
    assert _lost(_Etcd(refusals=10**6)) == "no keepalive was answered within 2 s: permission denied"
    assert _lost(_Etcd(refusals=0)) == "no keepalive was answered within 2 s: etcd issued no token in time"
    assert _lost(_Etcd(refusals=0), ttl_s=-1.0).endswith(
        "no attempt was made: this process was suspended or its event loop was blocked"
    )
