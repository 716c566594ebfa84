"""Keys are deleted on a real etcd under running masterds.

`tests/simulation/stores/test_lost_keys.py` tries every kind of key.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.cli import Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.noded.nodes import run_noded
from tests.support.waiting import eventually

INVENTORY = Inventory.model_validate(
    {"nodes": {"n1": {}}, "defaults": {"driver": {"name": "file", "settings": {"path": "shown.json"}}}}
)
_MENDED_S = 60.0


async def _begin(masters: Masters) -> None:
    await masters.configure(INVENTORY)
    masters.start("m1")
    await masters.wait_serving("m1")
    masters.start("m2")
    await masters.wait_candidate("m2")
    for number in range(5):
        await masters.command("node.set", node="n1", values={"x": number})


async def _restart_afresh(masters: Masters) -> None:
    """Kill all masterds and start one that has nothing in memory."""
    for name in list(masters.running):
        masters.running.pop(name).kill()
        await masters.expire(name)
    masters.start("m3")
    await masters.wait_serving("m3")


def _shown_x(file: Path) -> object:
    return json.loads(file.read_text())["x"] if file.exists() else None


async def _x(masters: Masters) -> object:
    return (await masters.ask("m3", "GET", "/v1/documents/nodes/n1"))["document"]["x"]


async def test_the_journal_is_deleted(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader notices it, writes a snapshot from memory, and status names what was missing."""
    async with Masters(etcd_one, keys) as masters:
        await _begin(masters)
        await masters.etcd.delete(keys.journal, prefix=True)
        await masters.etcd.delete(keys.head)
        nodectl = Nodectl([master.url for master in masters.running.values()])

        async def is_reported() -> bool:
            status = await nodectl("status", "-o", "name")
            return status.code == 0 and "journal entries were deleted" in status.out and keys.head in status.out

        await eventually(is_reported, "the loss is reported and mended", timeout_s=_MENDED_S)
        await _restart_afresh(masters)
        assert await _x(masters) == 4
        done = await masters.command("node.set", node="n1", values={"x": 5})
        assert done["result"]["document"]["x"] == 5


async def test_all_keys_are_deleted(etcd_one: EtcdCluster, keys: Keys) -> None:
    """No master leads, the node keeps its document, and `nodectl recover` brings everything back from memory."""
    async with Masters(etcd_one, keys) as masters, run_noded(etcd_one.endpoints, keys, "n1") as node:
        await _begin(masters)
        shown = node.work / "shown.json"
        await eventually(lambda: _shown_x(shown) == 4, "the node shows the last document")
        await masters.etcd.delete(keys.prefix, prefix=True)
        nodectl = Nodectl(etcd_one.endpoints, keys.cluster)

        async def is_reported() -> bool:
            status = await nodectl("status", "-o", "name")
            return status.code == 5 and "nodectl recover" in status.out

        await eventually(is_reported, "status says that there is no leader, and what to do", timeout_s=_MENDED_S)
        await asyncio.sleep(5.0)
        assert _shown_x(shown) == 4
        assert await masters.etcd.get(keys.epoch) is None
        done = await nodectl("recover", "-o", "json")
        assert (done.code, done.json["epoch"]) == (0, 2), done
        answer = await masters.command("node.set", node="n1", values={"y": 1})
        assert answer["result"]["document"] == {"x": 4, "y": 1}
        await node.ready(masters.etcd, keys, answer["index"])
        await _restart_afresh(masters)
        assert await _x(masters) == 4
