"""The connection state that the client reports, and reads that continue across failovers."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nodectl import Client, State
from nodectl.client.connection.backoff import backoff
from nodectl.client.connection.leadership import Leader, Leadership
from nodestore.errors import Invalid, NotFound, Unavailable
from nodestore.schema.models import Term
from tests.support.fakes.masterd import FakeCluster, fake_cluster, node_view

WAIT_S = 20.0


def client_of(cluster: FakeCluster, **more: Any) -> Client:
    return Client(cluster.urls, actor="test", read_timeout_s=WAIT_S, command_timeout_s=WAIT_S, **more)


async def until(client: Client, wanted: State) -> None:
    async with asyncio.timeout(WAIT_S):
        async for state in client.states():
            if state == wanted:
                return


async def test_states_follow_the_leader() -> None:
    """connected, suspended when the leader dies, lost when that lasts, connected when there is one again."""
    async with fake_cluster("m1", "m2") as cluster, client_of(cluster, lost_after_s=2.0) as client:
        seen: list[State] = []
        client.on_state(seen.append)
        assert client.state == "suspended"
        await until(client, "connected")
        await cluster.leading.stop()
        with pytest.raises(Unavailable):
            await client.leader(timeout_s=0.1)
        await until(client, "lost")
        cluster.lead("m2")
        await until(client, "connected")
        assert seen == ["connected", "suspended", "lost", "connected"]


async def test_a_callback_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the others are called, and one can be taken back."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        seen: list[State] = []
        removed: list[State] = []

        def fail(state: State) -> None:
            raise RuntimeError("oops")

        client.on_state(fail)
        client.on_state(seen.append)
        client.on_state(removed.append)()
        await until(client, "connected")
        assert seen == ["connected"]
        assert removed == []
        assert "oops" in caplog.text


async def test_states_end_when_the_client_is_closed() -> None:
    """An iteration over states is no task that stays behind."""
    async with fake_cluster("m1") as cluster:
        client = client_of(cluster)
        async with client:
            reader = asyncio.create_task(_read_all(client))
            await until(client, "connected")
        assert (await reader)[-1] == "connected"


@pytest.mark.parametrize("led", [True, False])
async def test_streams_end_when_the_client_is_closed(led: bool) -> None:
    """An iteration raises an error when the client is closed, with or without a leader, and does not wait for ever."""
    async with fake_cluster("m1") as cluster:
        if not led:
            cluster.lead(None)
        client = client_of(cluster)
        async with client:
            if led:
                await until(client, "connected")
            streams = [client.journal(0), client.live(), client.watch_nodes()] if led else [client.journal(0)]
            readers = [asyncio.create_task(_until_it_ends(stream)) for stream in streams]
            await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):
            assert await asyncio.gather(*readers) == ["the client was closed"] * len(readers)


async def _until_it_ends(stream: AsyncIterator[Any]) -> str:
    try:
        async for _ in stream:
            pass
    except Unavailable as error:
        return str(error)
    return "ended without a word"


@pytest.mark.parametrize("asks", [False, True])
async def test_a_client_leaves_no_connection_whenever_it_is_closed(asks: bool) -> None:
    """Not even one that was just being made: a socket left behind is a ResourceWarning, and fails the test."""
    async with fake_cluster("m1", "m2") as cluster:
        for turns in range(40):
            async with client_of(cluster) as client:
                reading = asyncio.create_task(client.nodes()) if asks else None
                for _ in range(turns):
                    await asyncio.sleep(0)
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        gc.collect()


async def _read_all(client: Client) -> list[State]:
    return [state async for state in client.states()]


async def test_an_idle_client_notices_a_new_leader() -> None:
    """The client notices a new leader without a request."""
    async with fake_cluster("m1", "m2") as cluster, client_of(cluster) as client:
        await until(client, "connected")
        known: asyncio.Queue[str | None] = asyncio.Queue()
        client.on_leader(lambda leader: known.put_nowait(leader.id if leader else None))
        cluster.lead("m2")
        async with asyncio.timeout(WAIT_S):
            while await known.get() != "m2":
                pass


async def test_reads_are_repeated_at_the_next_leader() -> None:
    """The one that was asked died with the question."""
    async with fake_cluster("m1", "m2") as cluster, client_of(cluster) as client:
        cluster.nodes["n1"] = node_view("n1")
        assert [node["name"] for node in await client.nodes()] == ["n1"]
        cluster.masters["m1"].silent = True
        reading = asyncio.create_task(client.nodes())
        async with asyncio.timeout(WAIT_S):
            while "GET /v1/nodes" not in cluster.masters["m1"].requests[-2:]:
                await asyncio.sleep(0.01)
        cluster.lead("m2")
        assert [node["name"] for node in await reading] == ["n1"]


async def test_local_reads_need_no_leader() -> None:
    """Any masterd answers them; linearizable ones end as Unavailable."""
    async with fake_cluster("m1", "m2") as cluster, client_of(cluster) as client:
        cluster.lead(None)
        await cluster.masters["m1"].stop()
        cluster.nodes["n1"] = node_view("n1")
        assert len(await client.nodes(consistency="local")) == 1
        with pytest.raises(Unavailable):
            await client.nodes(timeout_s=0.2)


async def test_what_does_not_exist_is_not_found() -> None:
    """NotFound is raised from the first answer, without a retry."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        with pytest.raises(NotFound, match="n9"):
            await client.node("n9")
        assert cluster.leading.requests.count("GET /v1/nodes/n9") == 1


async def test_nodes_are_watched_through_broken_streams() -> None:
    """After each break all nodes come again, marked as complete."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.nodes = {name: node_view(name) for name in ("n1", "n2")}
        stream = client.watch_nodes()
        seen = [await anext(stream) for _ in range(4)]
        await stream.aclose()
        assert [change.complete for change in seen] == [True, False, True, False]
        assert [len(change.nodes) for change in seen] == [2, 1, 2, 1]


async def test_configuration_is_applied_by_compare_and_swap() -> None:
    """Another expected version is a conflict. After a lost answer the configuration is read, and not sent again."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        assert await client.config_apply({"nodes": {}}, expect_version=0) == 1
        cluster.leading.drop_next.add("PUT /v1/config")
        assert await client.config_apply({"nodes": {"n1": {}}}, expect_version=1) == 2
        with pytest.raises(Exception, match="version 2 is current"):
            await client.config_apply({"nodes": {}}, expect_version=1)
        adopted = (await client.config())["adopted"]
        assert adopted is not None
        assert adopted["version"] == 2


async def test_a_switchover_whose_answer_is_lost_is_not_repeated() -> None:
    """The newer term is the answer."""
    async with fake_cluster("m1", "m2", "m3") as cluster, client_of(cluster) as client:
        cluster.leading.drop_next.add("POST /v1/leader/switchover")
        done = await client.switchover("m2")
        assert (done["from"], done["to"]) == ("m1", "m2")
        asked = sum(master.requests.count("POST /v1/leader/switchover") for master in cluster.masters.values())
        assert asked == 1
        assert (await client.leader()).id == "m2"


async def test_pause_and_resume() -> None:
    """Pause and resume are idempotent."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.leading.drop_next.add("PUT /v1/paused")
        await client.pause("maintenance")
        paused = await client.paused()
        assert paused is not None
        assert (paused["actor"], paused["reason"]) == ("test", "maintenance")
        await client.resume()
        assert await client.paused() is None


def leader(name: str, revision: int, epoch: int = 1) -> Leader:
    return Leader(name, "pc", (f"http://{name}",), Term(epoch, revision))


async def test_leadership_never_goes_back() -> None:
    """An older term is ignored, whatever its source; a term of a newer epoch is newer."""
    leadership = Leadership()
    leadership.publish(leader("m2", 20))
    leadership.publish(leader("m1", 10))
    assert leadership.leader == leader("m2", 20)
    leadership.publish(None)
    leadership.publish(leader("m1", 10))
    assert leadership.leader is None
    leadership.publish(leader("m3", 5, epoch=2))
    assert leadership.leader == leader("m3", 5, epoch=2)


async def test_doubt_belongs_to_one_term() -> None:
    """It ends when that leader answers, or when there is a newer one."""
    leadership = Leadership()
    assert leadership.is_doubtful
    leadership.publish(leader("m1", 10))
    assert not leadership.is_doubtful
    leadership.mark_doubtful("http://m2")
    assert leadership.is_doubtful
    assert leadership.take_hint() == ("http://m2",)
    leadership.publish(leader("m2", 20))
    assert not leadership.is_doubtful
    leadership.mark_doubtful()
    leadership.clear_doubt()
    assert not leadership.is_doubtful


@pytest.mark.parametrize("seed", range(5))
def test_back_off_is_jittered_and_bounded(seed: int) -> None:
    """A pause lasts between half of its full length and all of it: 0.04 s at first, twice as long each time."""
    pauses = backoff(0.7, dice=random.Random(seed))
    full_s = [0.04, 0.08, 0.16, 0.32, 0.64, *[0.7] * 35]
    found_s = [pauses.next_s() for _ in full_s]
    assert all(0.5 * full <= found <= full for found, full in zip(found_s, full_s, strict=True))
    assert len(set(found_s)) == len(found_s)
    pauses.reset()
    assert pauses.failures == 0
    assert pauses.next_s() <= 0.04


@pytest.mark.parametrize(
    ("endpoints", "complaint"),
    [
        ("", "no endpoint"),
        ("localhost", "is not host:port"),
        ("h:0", "is not host:port"),
        ("ftp://h:1", "ftp://"),
        ("h:1,http://h:2", "both kinds"),
        ("http://", "base URL"),
        ("http://h:99999", "Port"),
        ("h:2379", "cluster"),
    ],
)
def test_endpoints_that_make_no_sense_are_refused(endpoints: str, complaint: str) -> None:
    """Before anything is opened, in a sentence."""
    with pytest.raises(Invalid, match=complaint):
        Client(endpoints)


def test_endpoints_of_both_kinds_are_understood() -> None:
    """etcd:// may be written out; repeated ones count once."""
    assert Client("etcd://a:1, b:2,a:1", cluster="c").endpoints.etcd == ("a:1", "b:2")
    assert Client(["https://a:1/", "http://b"]).endpoints.masters == ("https://a:1", "http://b")
