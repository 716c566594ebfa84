"""The client with etcd endpoints: it finds the leader by its key, and writes configuration and pause itself."""

from __future__ import annotations

import asyncio

import pytest

from nodectl import Client, Leader
from nodestore.errors import Conflict, Unavailable
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, Epoch, LeaderRecord
from tests.support.etcd_cluster import EtcdCluster
from tests.support.fakes.masterd import FakeCluster, fake_cluster, node_view
from tests.support.waiting import eventually

WAIT_S = 20.0


def client_of(etcd_one: EtcdCluster, keys: Keys) -> Client:
    return Client(
        etcd_one.members[0].endpoint,
        cluster=keys.cluster,
        actor="test",
        read_timeout_s=WAIT_S,
        command_timeout_s=WAIT_S,
    )


def session(etcd_one: EtcdCluster) -> Etcd:
    return Etcd(EtcdSettings(endpoints=(etcd_one.members[0].endpoint,), call_timeout_s=WAIT_S))


async def lead(etcd: Etcd, keys: Keys, cluster: FakeCluster, name: str) -> None:
    cluster.lead(name)
    record = LeaderRecord(id=name, host="pc", urls=(cluster.masters[name].url,), nonce="x", since=0.0, cause="died")
    await etcd.put(keys.leader, record.encode())


async def test_the_leader_key_shows_a_new_leader(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The client watches `leader`, so it finds a new leader although the old one does not answer."""
    leaders: list[Leader | None] = []
    async with session(etcd_one) as etcd, fake_cluster() as cluster, client_of(etcd_one, keys) as client:
        client.on_leader(leaders.append)
        await etcd.put(keys.epoch, Epoch(epoch=3).encode())
        await lead(etcd, keys, cluster, "m1")
        await client.command("do")
        cluster.masters["m1"].silent = True
        waiting = asyncio.create_task(client.command("again"))
        async with asyncio.timeout(WAIT_S):
            while cluster.masters["m1"].requests.count("POST /v1/commands") < 2:
                await asyncio.sleep(0.01)
        await lead(etcd, keys, cluster, "m2")
        assert (await waiting).index == 2
        newest = leaders[-1]
        assert newest is not None
        assert (newest.id, newest.term.epoch) == ("m2", 3)


async def test_an_absent_or_unreadable_leader_is_waited_out(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A request waits for a leader; when its time is up, the error says that there is none."""
    async with session(etcd_one) as etcd, fake_cluster() as cluster, client_of(etcd_one, keys) as client:

        async def has_read_the_key() -> bool:
            with pytest.raises(Unavailable) as raised:
                await client.leader(timeout_s=0.5)
            return "there is no leader" in str(raised.value)

        await eventually(has_read_the_key, "the client reports that there is no leader")
        await etcd.put(keys.leader, b"garbage")
        waiting = asyncio.create_task(client.command("do"))
        await lead(etcd, keys, cluster, "m1")
        assert (await waiting).index == 1


async def test_local_reads_ask_candidates(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Without a leader, local reads are sent to the candidates."""
    async with session(etcd_one) as etcd, fake_cluster("m1") as cluster, client_of(etcd_one, keys) as client:
        cluster.nodes["n1"] = node_view("n1")
        candidate = Candidate(id="m1", host="pc", urls=(cluster.masters["m1"].url,), nonce="x")
        await etcd.put(keys.candidate("m1"), candidate.encode())
        await etcd.put(keys.candidate("m0"), b"garbage")
        assert [node["name"] for node in await client.nodes(consistency="local")] == ["n1"]


async def test_configuration_is_written_without_a_master(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Each version is written once, with its history. Another expected version is a conflict."""
    async with session(etcd_one) as etcd, client_of(etcd_one, keys) as client:
        found = await client.config()
        assert (found["current"], found["adopted"], found["rejected"]) == (None, None, None)
        assert await client.config_apply({"nodes": {}}, source="nodes: {}", expect_version=0) == 1
        assert await client.config_apply({"nodes": {"n1": {}}}, expect_version=1) == 2
        with pytest.raises(Conflict, match="version 2"):
            await client.config_apply({"nodes": {}}, expect_version=1)
        current = (await client.config())["current"]
        assert current is not None
        assert (current["version"], current["actor"], current["inventory"]) == (2, "test", {"nodes": {"n1": {}}})
        first = await etcd.get(keys.config_version(1))
        assert first is not None
        assert b"nodes: {}" in first.value


async def test_versions_never_go_back(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Neither over garbage, nor after the key was deleted: the history has the newest version."""
    async with session(etcd_one) as etcd, client_of(etcd_one, keys) as client:
        for number in range(2):
            await client.config_apply({"nodes": {f"n{number}": {}}})
        await etcd.put(keys.config_current, b"garbage")
        assert await client.config_apply({"nodes": {}}) == 3
        await etcd.delete(keys.config_current)
        assert await client.config_apply({"nodes": {}}) == 4


async def test_two_who_apply_at_once_do_not_overwrite_each_other(etcd_one: EtcdCluster, keys: Keys) -> None:
    """One succeeds, the other gets a conflict."""
    async with client_of(etcd_one, keys) as client:
        await client.config_apply({"nodes": {}})
        outcomes = await asyncio.gather(
            *(client.config_apply({"nodes": {f"n{number}": {}}}, expect_version=1) for number in range(5)),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 4 + ["int"]


async def test_takeover_is_paused_and_resumed_without_a_master(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The key is there exactly while it is paused."""
    async with session(etcd_one) as etcd, client_of(etcd_one, keys) as client:
        assert await client.paused() is None
        await client.pause("first")
        await client.pause("second")
        paused = await client.paused()
        assert paused is not None
        assert (paused["reason"], paused["actor"]) == ("second", "test")
        await client.resume()
        await client.resume()
        assert await etcd.get(keys.paused) is None
