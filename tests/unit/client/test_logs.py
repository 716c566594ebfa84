"""Following a node's log: what follows a position comes once, whatever fails in between."""

from __future__ import annotations

import asyncio

import pytest

from nodectl.client import Client
from nodestore.errors import Invalid, NodeUnavailable, Unavailable
from nodestore.schema.api_types import NodeLog
from tests.support.fakes.masterd import FakeCluster, fake_cluster
from tests.support.waiting import eventually


async def _read(client: Client, follow: bool, until: str) -> list[NodeLog]:
    found = []
    async for piece in client.node_logs("n1", follow=follow):
        found.append(piece)
        if until in piece["text"]:
            break
    return found


def _open(cluster: FakeCluster) -> Client:
    return Client(cluster.urls, read_timeout_s=10.0)


async def test_a_follower_waits_for_a_node_that_is_away_and_mentions_it_once() -> None:
    async with fake_cluster() as cluster, _open(cluster) as client:
        cluster.log = [{"text": "one\n"}, {"code": "node_unavailable"}, {"text": "two\n"}]
        found = await _read(client, True, "two")
    assert [piece["text"] for piece in found] == ["one\n", "", "two\n"]
    assert [piece["note"] for piece in found] == ["", "no new lines at present: node n1: node_unavailable", ""]


async def test_a_follower_goes_to_the_next_leader_with_its_position() -> None:
    async with fake_cluster() as cluster, _open(cluster) as client:
        cluster.log = [{"text": "one\n"}]
        reading = asyncio.create_task(_read(client, True, "two"))
        leader, standby = cluster.leading, next(one for one in cluster.masters.values() if not one.leads)
        path = "GET /v1/nodes/n1/log"
        await eventually(lambda: leader.requests.count(path) > 1, "it follows")
        leader.drop_next.add(path)
        cluster.lead(standby.name)
        await eventually(lambda: path in standby.requests, "it follows at the next leader")
        cluster.log.append({"text": "two\n"})
        found = await reading
    assert [piece["text"] for piece in found if piece["text"]] == ["one\n", "two\n"]


async def test_without_following_a_failure_is_an_error() -> None:
    async with fake_cluster() as cluster, _open(cluster) as client:
        cluster.log = [{"text": "one\n"}, {"code": "node_unavailable"}]
        with pytest.raises(NodeUnavailable):
            await _read(client, False, "never")


@pytest.mark.parametrize("lines", [-1, 10_001])
async def test_too_many_lines_are_refused_before_anything_is_sent(lines: int) -> None:
    async with fake_cluster() as cluster, _open(cluster) as client:
        with pytest.raises(Invalid):
            await anext(client.node_logs("n1", lines=lines))


@pytest.mark.parametrize("follow", [False, True])
async def test_a_closed_client_ends_its_followers(follow: bool) -> None:
    async with fake_cluster() as cluster:
        async with _open(cluster) as client:
            cluster.log = [{"text": "one\n"}, {"text": "two\n"}]
            pieces = client.node_logs("n1", follow=follow)
            assert (await anext(pieces))["text"] == "one\n"
        with pytest.raises(Unavailable, match="the client was closed"):
            await anext(pieces)
