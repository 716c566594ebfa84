"""A real masterd whose application hangs for one node: it says so, goes last, and leads without that node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodectl import Client
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Alive, Candidate, Desired, Inventory, Status, TermRecord, decode
from tests.support.cli import InProcessNodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters
from tests.support.poison_app import HANGS_FOR
from tests.support.waiting import eventually

_HANGING = ("--app=tests.support.poison_app:HangingApp", "--derive-timeout=0.5s")
_WHY = f"the application did not return from desired(node {HANGS_FOR}) within 0.5 s"
_INVENTORY = Inventory.model_validate({"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": {"name": "process"}}})


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


async def _desired(etcd: Etcd, keys: Keys, node: str) -> bytes | None:
    found = await etcd.get(keys.desired_of(node))
    return None if found is None else found.value


async def _report_converged(etcd: Etcd, keys: Keys, order: bytes | None) -> None:
    """Write what a noded writes that obeys this order of n2, so that n2 has no other problem."""
    assert order is not None
    wanted = decode(Desired, order, "n2")
    await etcd.put(keys.alive_of("n2"), Alive(host_id="h", nonce="x", host="h").encode())
    status = Status(node="n2", nonce="x", host="h", phase="ready", observed_generation=wanted.generation)
    await etcd.put(keys.status_of("n2"), status.encode())


async def test_one_node_that_hangs_stops_no_leader(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The only master left leads one term, serves the other nodes, and reports the node, which keeps its order."""
    async with Masters(etcd_one, keys) as masters:
        await masters.configure(_INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        await masters.command("node.set", node="n1", values={"x": 1})
        await masters.command("node.set", node="n2", values={"x": 1})
        masters.start("m2", arguments=_HANGING)

        async def is_unfit() -> bool:
            found = await masters.etcd.get(keys.candidate("m2"))
            return found is not None and _WHY in (decode(Candidate, found.value, found.key).unfit or "")

        await eventually(is_unfit, "m2 has published why it is unfit")
        before = await _desired(masters.etcd, keys, "n2")
        masters.running.pop("m1").kill()
        await masters.wait_serving("m2")

        async with Client(masters.running["m2"].url) as client:
            await client.command("node.set", {"node": "n1", "values": {"x": 2}})
            await client.command("node.set", {"node": "n2", "values": {"x": 2}})  # also its own commands succeed
        assert b'"x":2' in (await _desired(masters.etcd, keys, "n1") or b"")
        assert await _desired(masters.etcd, keys, "n2") == before
        await _report_converged(masters.etcd, keys, before)
        nodectl = InProcessNodectl([masters.running["m2"].url])

        async def is_reported() -> bool:
            return f"node n2: keeps its last order: {_WHY}" in (await nodectl("status", "-o", "json")).json["problems"]

        await eventually(is_reported, "the status names the node and the reason")
        terms = (await masters.etcd.range(keys.terms)).kvs
        assert [decode(TermRecord, kv.value, kv.key).id for kv in terms].count("m2") == 1
