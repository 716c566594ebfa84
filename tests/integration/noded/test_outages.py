"""A noded while etcd is away: it continues, and starts with the state that it last applied."""

from __future__ import annotations

from pathlib import Path

import psutil

from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import TIMEOUT_S, rig, runs
from tests.support.waiting import eventually


async def test_without_etcd_the_work_goes_on(keys: Keys, tmp_path: Path) -> None:
    """etcd is down for longer than the lease: the program continues, is restarted after a crash, and all is reported
    afterwards."""
    cluster = EtcdCluster(1)
    try:
        cluster.spawn()
        await cluster.wait_healthy()
        async with rig(cluster, keys, tmp_path) as node:
            await node.order("one", 1)
            noded = await node.start()
            pid = await node.shows("one")
            old = await node.ready(1)
            cluster.members[0].kill()
            await eventually(lambda: "lease lost" in noded.log, lambda: noded.log, timeout_s=TIMEOUT_S)
            assert runs(pid)
            psutil.Process(pid).kill()
            shown = await node.runs_another(pid, noded)
            cluster.members[0].start()
            await cluster.wait_healthy()
            status = await node.reached(lambda now: now.actual.get("restarts") == 1, "the restart to be told")
            assert status.nonce == old.nonce
            assert await node.shows("one") == shown["pid"]
            await node.order("two", 2)
            await node.shows("two")
    finally:
        cluster.stop()


async def test_started_without_etcd_it_does_what_it_did_last(keys: Keys, tmp_path: Path) -> None:
    """A PC that boots during an outage applies its last spec.

    Afterwards the spec in etcd is applied, however old it is.
    """
    cluster = EtcdCluster(1)
    try:
        cluster.spawn()
        await cluster.wait_healthy()
        async with rig(cluster, keys, tmp_path) as node:
            await node.order("one", 7)
            first = await node.start()
            pid = await node.shows("one")
            await node.ready(7)
            await first.kill()
            await node.order("two", 6)  # lower than what the first noded obeyed, but this one has obeyed nothing yet
            cluster.members[0].kill()
            noded = await node.start("--start-wait", "0.2")
            shown = await node.runs_another(pid, noded)
            assert shown["document"] == {"scene": "one"}
            cluster.members[0].start()
            await cluster.wait_healthy()
            assert await node.shows("two") == shown["pid"]
            await node.ready(6)
    finally:
        cluster.stop()
