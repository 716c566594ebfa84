"""Linearizable reads show every acknowledged write, also of what is outside of the journal."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from nodestore.etcd.session import op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, Status
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import UNTIL_IT_DIES, Masterd, Masters

INVENTORY = Inventory.model_validate({"nodes": {"n1": {}}})
_ROUNDS = 40


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


async def _write_and_read(masters: Masters, number: int) -> None:
    """An acknowledged change of each kind, and what a linearizable read shows right after it."""
    inventory = json.loads(INVENTORY.model_dump_json())
    version = (await masters.ask("m1", "PUT", "/v1/config", {"inventory": inventory, "actor": "t"}))["version"]
    assert (await masters.ask("m1", "GET", "/v1/config"))["version"] >= version
    await masters.ask("m1", "PUT", "/v1/paused", {"actor": "t", "reason": str(number)})
    assert (await masters.ask("m1", "GET", "/v1/paused"))["reason"] == str(number)
    assert (await masters.ask("m1", "GET", "/v1/status"))["paused"]["reason"] == str(number)
    status = Status(node="n1", nonce="n", host="h", phase="ready", time=1.0, observed_generation=number)
    put = op_put(masters.keys.status + "n1", status.encode())
    await masters.etcd.txn([], [put], repeatable=True)  # also through another member than the frozen one
    shown = (await masters.ask("m1", "GET", "/v1/nodes/n1"))["status"]
    assert shown["observed_generation"] == number
    await masters.ask("m1", "DELETE", "/v1/paused")
    assert (await masters.ask("m1", "GET", "/v1/status"))["paused"] is None


@pytest.mark.timeout(300)
async def test_reads_show_what_was_acknowledged_before(keys: Keys) -> None:
    """Again and again; and while the member is frozen through which the leader watches, whichever that is."""
    async with EtcdCluster(3) as cluster, Masters(cluster, keys, arguments=UNTIL_IT_DIES) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        for number in range(1, _ROUNDS):
            await _write_and_read(masters, number)
        for member in cluster.members:
            member.pause()
            try:
                await _write_and_read(masters, _ROUNDS + cluster.members.index(member))
            finally:
                member.resume()
            await cluster.wait_healthy()
