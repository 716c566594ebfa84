"""A standby's watch over a leader, without the connections that `run` would open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from masterd.election.heartbeat_listener import HeartbeatListener
from masterd.election.leader_watch import LeaderWatch
from masterd.election.suspicion import LAN
from masterd.replication.cluster_view import ClusterView
from nodestore.cluster.election import LeaderSeen
from nodestore.schema.keys import Keys
from nodestore.schema.models import LeaderRecord

KEYS = Keys("c")


def quiet_cluster_view() -> ClusterView:
    """Return a cluster view in which no masterd has challenged the leader."""
    answers = SimpleNamespace(items={}, subscribe=_subscribe)
    return cast(ClusterView, SimpleNamespace(challenges=SimpleNamespace(items={}), answers=answers))


def _subscribe(_: object) -> Any:
    return lambda: None


def watch(**more: Any) -> LeaderWatch:
    """Return the watch of m3 over m1 in term 7; `more` replaces arguments of LeaderWatch."""
    record = LeaderRecord(id="m1", host="pc1", urls=(), nonce="n", since=0.0)
    options: dict[str, Any] = {
        "etcd": None,
        "own_id": "m3",
        "lease": 0,
        "seen": LeaderSeen(7, record, 5),
        "cluster_view": quiet_cluster_view(),
        "replica": SimpleNamespace(subscribe=_subscribe),
    } | more
    return LeaderWatch(keys=KEYS, timing=LAN, streak=0, wake=lambda: None, **options)


@asynccontextmanager
async def running(found: LeaderWatch) -> AsyncIterator[None]:
    """Run the watch without a connection to the leader: it receives only what the test passes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeartbeatListener, "run", _listen_to_nothing)
        task = asyncio.create_task(found.run())
        await asyncio.sleep(0.001)
        yield
        task.cancel()
        await asyncio.wait((task,))


async def _listen_to_nothing(_: HeartbeatListener) -> None:
    await asyncio.Event().wait()
