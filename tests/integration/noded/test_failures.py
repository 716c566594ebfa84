"""What a noded does with programs, settings and desired states that are wrong."""

from __future__ import annotations

from pathlib import Path

import psutil

from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Spec
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import NODE, gone, rig, runs


async def test_crash_loop_is_retried_and_told(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A program that always ends is retried with pauses, its last words are the error, and a good one ends it."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1, code="import sys; sys.exit('no display')")
        await node.start()
        status = await node.reached(lambda status: status.attempts >= 2, "two attempts")
        assert status.phase == "retrying"
        assert status.error == "the program exited with code 1: no display"
        await node.order("two", 2)
        await node.shows("two")
        assert (await node.ready(2)).error is None


async def test_crash_is_repaired_at_once(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The end of the program wakes noded: no tick has to pass."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start("--tick", "600")
        pid = await node.shows("one")
        await node.ready(1)
        psutil.Process(pid).kill()
        await node.shows("one", but_pid=pid)
        status = await node.reached(lambda status: status.actual.get("restarts") == 1, "the restart to be told")
        assert status.actual["exit_code"] != 0
        await node.ready(1)


async def test_refused_settings_leave_the_work_running(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Invalid settings or an unknown driver are reported as failed.

    The running program continues, also after a crash.
    """
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.order("two", 2, grace=1)
        status = await node.reached(lambda status: status.observed_generation == 2, "generation 2")
        assert status.phase == "failed"
        assert status.error is not None
        assert "grace" in status.error
        spec = Spec(driver="relay", document={"scene": "three"})
        await node.put(Desired(epoch=1, term=5, generation=3, spec=spec))
        status = await node.reached(lambda status: status.observed_generation == 3, "generation 3")
        assert status.phase == "failed"
        assert "no driver named relay" in str(status.error)
        assert await node.shows("one") == pid
        psutil.Process(pid).kill()
        await node.shows("one", but_pid=pid)


async def test_garbage_is_reported_and_changes_nothing(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """An unreadable desired state leaves the one before in force."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.etcd.put(keys.desired_of(NODE), b'{"epoch": "many"}')
        status = await node.reached(lambda status: status.error, "an error")
        assert "not readable" in str(status.error)
        assert status.observed_generation == 1
        assert await node.shows("one") == pid
        await node.order("two", 2)
        await node.shows("two")
        assert (await node.ready(2)).error is None


async def test_lower_order_is_ignored(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """What a deposed leader wrote is not obeyed, whatever its generation."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 7, term=9)
        noded = await node.start()
        await node.shows("one")
        await node.order("old", 8, term=8)
        await node.says(noded, "order 1.8.8 is ignored")
        status = await node.reached(lambda status: status.error, "an error")
        assert status.observed_generation == 7
        assert node.shown()["document"] == {"scene": "one"}
        await node.order("two", 8, term=9)
        await node.shows("two")


async def test_deleted_desired_state_stops_the_work(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node that was removed from the inventory runs nothing, and does not begin again by itself."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        noded = await node.start()
        pid = await node.shows("one")
        await node.ready(1)
        await node.etcd.delete(keys.desired_of(NODE))
        await gone(node, pid)
        status = await node.reached(lambda status: status.phase == "idle", "idle")
        assert "no desired state" in status.reason
        await noded.kill()
        await node.start()
        await node.reached(lambda now: now.nonce != status.nonce and now.phase == "idle", "idle again")


async def test_driver_exec(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The node changes from a program to a command, and what the command prints is the status."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        code = "import json, sys; print(json.dumps({'lamp': json.load(sys.stdin)['scene']}))"
        spec = Spec(driver="exec", settings={"argv": ["{python}", "-c", code]}, document={"scene": "two"})
        await node.put(Desired(epoch=1, term=5, generation=2, spec=spec))
        assert (await node.ready(2)).actual == {"lamp": "two"}
        assert not runs(pid)
