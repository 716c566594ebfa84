"""A standby's watch over a leader, without the connections that `run` would open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from masterd.election.leader_watch import LeaderWatch
from masterd.election.suspicion import LAN
from masterd.replication.cluster_view import ClusterView
from nodestore.cluster.election import LeaderSeen
from nodestore.schema.keys import Keys
from nodestore.schema.models import LeaderRecord


def quiet_cluster_view() -> ClusterView:
    """Return a cluster view in which no masterd has challenged the leader."""
    return cast(ClusterView, SimpleNamespace(challenges=SimpleNamespace(items={}), answers=SimpleNamespace(items={})))


def watch(**more: Any) -> LeaderWatch:
    """Return the watch of m3 over m1 in term 7; `more` replaces arguments of LeaderWatch."""
    record = LeaderRecord(id="m1", host="pc1", urls=(), nonce="n", since=0.0)
    options: dict[str, Any] = {
        "own_id": "m3",
        "seen": LeaderSeen(7, record, 5),
        "cluster_view": quiet_cluster_view(),
    } | more
    return LeaderWatch(
        cast(Any, None), Keys("c"), lease=1, replica=cast(Any, None), timing=LAN, streak=0, wake=lambda: None, **options
    )
