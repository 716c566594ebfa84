"""etcd without a quorum: callers get errors in time, running programs continue, and all recovers with the quorum."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from nodestore.errors import NodectlError
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.cli import Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters
from tests.support.noded import nodes
from tests.support.waiting import eventually

INVENTORY = Inventory.model_validate(
    {"nodes": {"n1": {}}, "defaults": {"driver": {"name": "file", "settings": {"path": "shown.json"}}}}
)


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


async def _leaderless(etcd: Etcd, endpoint: str) -> bool:
    try:
        return (await maintenance.status(etcd, endpoint)).leader == 0
    except NodectlError as error:
        return "no leader" in str(error)


async def test_without_a_quorum_everybody_is_told_and_afterwards_all_goes_on(
    broken_three: EtcdCluster, keys: Keys
) -> None:
    """Reads and commands end with code 5 and one line.

    `status` and local reads succeed, and noded keeps its last state. With the quorum, commands, masters and nodes
    continue without a restart.
    """
    async with (
        Masters(broken_three, keys) as masters,
        nodes.run_noded(broken_three.endpoints, keys, "n1") as noded,
        Etcd(EtcdSettings(endpoints=broken_three.endpoints[:1])) as last,
    ):
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        shown = await masters.command("node.set", node="n1", values={"x": 1})
        await noded.ready(masters.etcd, keys, shown["index"])

        for member in broken_three.members[1:]:
            member.kill()
        await eventually(lambda: _leaderless(last, broken_three.endpoints[0]), "the last member has no leader")
        through_etcd = Nodectl(broken_three.endpoints, keys.cluster, timeout_s=2.0)
        through_masters = Nodectl([master.url for master in masters.running.values()], timeout_s=6.0)
        written, read, paused, local, local_by_etcd, status = await asyncio.gather(
            through_etcd("node", "set", "n1", "x=2"),
            through_etcd("node", "list"),
            through_etcd("master", "pause"),
            through_masters("node", "list", "--local", "-o", "json"),
            through_etcd("node", "list", "--local", "-o", "json"),
            through_masters("status", "-o", "name"),
        )
        for ran in (written, read, paused):
            assert ran.code == 5, ran
            assert ran.lines[0].startswith("error: "), ran
            assert "etcd" in ran.lines[0], ran
            assert len(ran.lines) == 2, ran
        for ran in (local, local_by_etcd):  # the one member that is left names the masterds
            assert (ran.code, ran.json[0]["document"]) == (0, {"x": 1}), ran
        assert status.code == 0, status
        assert "etcd has no quorum, " in status.out
        assert noded.child.poll() is None
        assert json.loads((noded.work / "shown.json").read_text()) == {"x": 1}

        for member in broken_three.members[1:]:
            member.start()
        done = await masters.command("node.set", node="n1", values={"x": 3})
        await noded.ready(masters.etcd, keys, done["index"])
        assert all(master.exit_code is None for master in masters.running.values())
        ran = await Nodectl(broken_three.endpoints, keys.cluster, timeout_s=20.0)("node", "set", "n1", "x=4")
        assert ran.code == 0, ran
        assert await masters.problems() == []
