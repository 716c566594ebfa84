"""The journal over HTTP: complete and in order, from any masterd, across a change of leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest

from nodestore.errors import TooOld, Unavailable
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from nodestore.support.jsonio import Json, loads
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.waiting import eventually

INVENTORY = Inventory.model_validate({"nodes": {"n1": {}}, "defaults": {"driver": {"name": "x"}}})


class Stream:
    """One reader of a stream of events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Json]] = []
        self.ended = False

    @property
    def indexes(self) -> list[int]:
        return [data["index"] for name, data in self.events if name == "command"]

    async def read(self, url: str) -> None:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            name = ""
            try:
                async for line in response.content:
                    if line.startswith(b"event: "):
                        name = line[7:].strip().decode()
                    elif line.startswith(b"data: "):
                        self.events.append((name, loads(line[6:])))
            except aiohttp.ClientError:
                pass
        self.ended = True


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Stream]:
    stream = Stream()
    task = asyncio.create_task(stream.read(url))
    try:
        yield stream
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _two(masters: Masters) -> None:
    await masters.configure(INVENTORY)
    for name in ("m1", "m2"):
        masters.start(name)
        await masters.wait_candidate(name)
        await masters.wait_serving("m1")

    async def follows() -> bool:
        with suppress(Unavailable):
            leader = await masters.ask("m2", "GET", "/v1/leader?consistency=local")
            return leader["id"] == "m1" and (await masters.ask("m2", "GET", "/v1/health"))["problem"] is None
        return False

    await eventually(follows, "the standby has read the journal, and knows who leads")


async def test_a_reader_resumes_at_another_master_after_the_first_died(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The events before and after the failover are 1, 2, 3, ... without a gap or a repeat."""
    async with Masters(etcd_one, keys) as masters:
        await _two(masters)
        async with reading(f"{masters.running['m1'].url}/v1/events?after=0") as first:
            for number in range(20):
                await masters.command("node.set", node="n1", values={"x": number})
            await eventually(lambda: len(first.indexes) >= 20, "the first reader hears")
            masters.running["m1"].kill()
            await eventually(lambda: first.ended, "the stream ends with its master")
            heard = list(first.indexes)
        for number in range(20):
            await masters.command("node.set", node="n1", values={"y": number})
        last = max(masters.acknowledged.values())
        async with reading(f"{masters.running['m2'].url}/v1/events?after={heard[-1]}") as second:
            await eventually(lambda: bool(second.indexes) and second.indexes[-1] == last, "the second reader hears")
            assert heard + second.indexes == list(range(1, last + 1))


async def test_a_standby_tells_the_same_as_the_leader(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with Masters(etcd_one, keys) as masters:
        await _two(masters)
        urls = [f"{masters.running[name].url}/v1/events?after=0" for name in ("m1", "m2")]
        async with reading(urls[0]) as leader, reading(urls[1]) as standby:
            await masters.commands(*(("node.set", {"node": "n1", "values": {"x": n}}) for n in range(50)))
            last = max(masters.acknowledged.values())
            await eventually(lambda: leader.indexes[-1:] == [last] == standby.indexes[-1:], "both hear all")
            assert leader.events == standby.events


async def test_a_reader_behind_the_retained_journal_is_told_to_read_anew(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with Masters(etcd_one, keys, small=True, arguments=["--snapshot-every=10"]) as masters:
        await _two(masters)

        async def truncated() -> bool:  # which takes two snapshots, and the second one new commands
            await masters.commands(*(("node.set", {"node": "n1", "values": {"x": n}}) for n in range(20)))
            found = await masters.etcd.range(keys.journal, limit=1)
            return bool(found.kvs) and keys.entry_index(found.kvs[0].key) > 20

        await eventually(truncated, "the journal is truncated", timeout_s=20)
        masters.start("m3")  # has nothing in memory that is older than its snapshot
        await masters.wait_candidate("m3")

        async def refused() -> bool:
            try:
                await masters.ask("m3", "GET", "/v1/events?after=0")
            except TooOld:
                return True
            except Unavailable:  # it has only just started
                return False
            return False

        await eventually(refused, "410")


@pytest.mark.parametrize("path", ["/v1/cluster/watch", "/v1/live"])
async def test_the_cluster_stream_begins_with_the_present_and_reports_a_new_leader(
    etcd_one: EtcdCluster, keys: Keys, path: str
) -> None:
    """Under its earlier name too, for old clients."""
    async with Masters(etcd_one, keys) as masters:
        await _two(masters)
        async with reading(f"{masters.running['m2'].url}{path}") as live:
            await eventually(
                lambda: {name for name, _ in live.events} >= {"leader", "masters", "nodes"}, "all at first"
            )
            assert next(data for name, data in live.events if name == "leader")["leader"][0]["id"] == "m1"
            masters.running["m1"].kill()

            def new_leader() -> bool:
                told = [data["leader"] for name, data in live.events if name == "leader"]
                return bool(told[-1]) and told[-1][0]["id"] == "m2"

            await eventually(new_leader, "the change of leader is told")
