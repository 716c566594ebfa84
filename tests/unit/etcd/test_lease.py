"""The error of a lost lease describes the failed attempts to renew it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, cast

import pytest

from nodestore.errors import LeaseLost
from nodestore.etcd.lease import Lease, boottime_s
from nodestore.etcd.session import Etcd
from nodestore.etcd.stream import BrokenStream
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.link import Link
from tests.support.sessions import keep_lease_alive


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


def test_the_time_of_a_lease_counts_from_the_request() -> None:
    """Of the grant and of each keepalive: etcd may have processed it long before its answer arrives."""
    way_s, ttl_s = 0.25, 3

    async def life() -> None:
        async with Etcd(SETTINGS, connect=Link(FakeEtcd(), latency_s=way_s).connect) as etcd:
            asked = boottime_s()
            lease = await Lease.grant(etcd, ttl_s)
            assert boottime_s() == asked + 2 * way_s
            assert lease.left_s == ttl_s - 2 * way_s
            async with keep_lease_alive(lease):
                left = []
                for _ in range(500):
                    await asyncio.sleep(0.01)
                    left.append(lease.left_s)
            assert any(after > before for before, after in pairwise(left)), "no keepalive was answered"
            assert max(left) <= ttl_s - 2 * way_s

    with VirtualTime() as world:
        world.run(life())
