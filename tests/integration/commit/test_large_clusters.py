"""Hundreds of nodes and thousands of documents on an etcd with default limits: 128 operations and 1.5 MiB a request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.faults.late.transactions import desired
from tests.support.cli import Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import UNTIL_IT_DIES, Masterd, Masters
from tests.support.waiting import eventually

ETCD_LIMITS = ("--max-txn-ops=128", "--max-request-bytes=1572864")
NODES = [f"n{number}" for number in range(500)]
SCENES = 10_000
INVENTORY = Inventory.model_validate({"nodes": {node: {} for node in NODES}, "defaults": {"driver": {"name": "file"}}})


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


async def test_a_scene_for_500_nodes_reaches_all_whoever_dies(keys: Keys) -> None:
    """One command changes 500 desired documents: all arrive, with its index as their generation, in as many
    transactions as etcd's limits make necessary; and when the leader is killed in the middle of them, the next one
    finishes. Nothing that is written exceeds what etcd takes, also with 10,000 documents more."""
    async with EtcdCluster(1, flags=ETCD_LIMITS) as etcd, Masters(etcd, keys, arguments=UNTIL_IT_DIES) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        for name in ("day", "night"):
            await masters.command("scene.save", name=name, nodes={node: {"scene": name, "me": node} for node in NODES})

        day = await masters.command("scene.apply", name="day")
        await eventually(lambda: arrived(masters, "day", day["index"]), "all nodes shall show the day")

        masters.start("m2", cut="chunk:3:before")
        await masters.wait_candidate("m2")
        await masters.switchover("m2")
        term = (await masters.leader()).revision
        sent = asyncio.create_task(masters.command("scene.apply", name="night"))
        await masters.wait_killed("m2")
        await masters.expire("m2")
        night = await sent
        await eventually(lambda: arrived(masters, "night", night["index"]), "all nodes shall show the night")
        terms = (await masters.etcd.range(keys.terms)).kvs
        next_term = min(kv.create_revision for kv in terms if kv.create_revision > term)
        left = await desired(masters.etcd, keys, next_term - 1)
        some = [node for node, (wanted, _) in left.items() if wanted.generation > day["index"]]
        assert 0 < len(some) < len(NODES), "it was to be killed in the middle"
        masters.running.pop("m2").kill()
        assert await masters.problems() == []

        await _fill(masters)
        await _everything_still_works(masters, etcd)


async def arrived(masters: Masters, scene: str, generation: int) -> bool:
    found = await desired(masters.etcd, masters.keys)
    return {node: (wanted.generation, wanted.spec.document) for node, (wanted, _) in found.items()} == {
        node: (generation, {"scene": scene, "me": node}) for node in NODES
    }


async def _fill(masters: Masters) -> None:
    scenes = [("scene.save", {"name": f"s{number}", "nodes": {"n1": {"number": number}}}) for number in range(SCENES)]
    for start in range(0, SCENES, 250):
        await masters.commands(*scenes[start : start + 250], via="m1")


async def _everything_still_works(masters: Masters, etcd: EtcdCluster) -> None:
    """A takeover by a master that starts afresh, a snapshot, listing, status; and no value is near etcd's limit."""
    keys = masters.keys
    nodectl = Nodectl(etcd.endpoints, keys.cluster)
    saved = await nodectl("snapshot", "save", "full")
    assert saved.code == 0, saved
    masters.start("m3")
    await masters.wait_candidate("m3")
    masters.running.pop("m1").kill()
    await masters.expire("m1")
    await masters.wait_serving("m3")
    listing, status, changed = await asyncio.gather(
        nodectl("state", "list", "scenes/s", "-o", "name"),
        nodectl("status", "-o", "json"),
        nodectl("node", "set", "n1", "x=1"),
    )
    assert len(listing.out.splitlines()) == SCENES, listing.err
    assert changed.code == 0, changed
    assert len(status.json["nodes"]) == len(NODES)
    assert len(status.out) < 2 << 20, "status grows with nodes, not with documents"
    restored = await nodectl("snapshot", "restore", "full")
    assert restored.code == 0, restored
    found = await list_at(masters.etcd, keys.prefix, end=keys.prefix.encode()[:-1] + b"0", page=500)
    assert max(len(kv.value) for kv in found.kvs) < 1 << 20
