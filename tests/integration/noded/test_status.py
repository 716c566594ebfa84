"""What a noded writes into its status, and how often."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nodestore.etcd.watch import Listing, mirror
from nodestore.schema.keys import Keys
from nodestore.schema.models import Status, decode
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import NODE, TIMEOUT_S, rig


async def test_status_is_written_once_a_change(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Ticks write nothing, and a change that succeeds is one write."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start("--tick", "0.05")
        await node.ready(1)
        versions = []
        for generation in (2, 3):
            await node.order(f"scene {generation}", generation)
            await node.ready(generation)
            found = await node.etcd.get(keys.status_of(NODE))
            assert found is not None
            versions.append(found.version)
        assert versions[1] == versions[0] + 1


async def test_watch_sees_each_claim_and_status(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """What masterd mirrors are whole, readable models at every step."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        async with asyncio.timeout(TIMEOUT_S):
            async for item in mirror(node.etcd, keys.status):
                pairs = (
                    [(kv.key, kv.value) for kv in item.kvs]
                    if isinstance(item, Listing)
                    else [(event.key, event.value or b"") for event in item.events]
                )
                if any(decode(Status, value, key).phase == "ready" for key, value in pairs):
                    break
