"""A noded with real programs and a real etcd converges: at its start, after changes, and after a kill at any step."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import NODE, Noded, gone, rig, runs


async def test_node_converges_and_follows(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node converges, follows changes, and reports what it did and why."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        status = await node.ready(1)
        assert (status.node, status.epoch, status.term, status.driver) == (NODE, 1, 5, "process")
        assert status.actual["pid"] == pid
        assert status.error is None
        assert status.time > 0
        alive = await node.alive()
        assert alive is not None
        assert (alive.host_id, alive.nonce) == ("host-a", status.nonce)
        await node.order("two", 2)
        assert await node.shows("two") == pid
        assert (await node.ready(2)).reason == "its document changed (scene)"


async def test_node_waits_for_its_first_orders(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node without a spec is idle, and applies its first spec."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.start()
        await node.reached(lambda status: status.phase == "idle", "idle")
        await node.order("one", 1)
        await node.shows("one")


async def test_asked_to_stop_it_leaves_nothing(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """SIGTERM ends the program and deletes the claim; the last status shows the stop, and the exit code is 0."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        noded = await node.start("--lease-ttl", "60")
        pid = await node.shows("one")
        await node.ready(1)
        child_processes.terminate(noded.child.identity)
        assert await noded.ended() == 0
        assert not runs(pid)
        assert await node.alive() is None
        status = await node.status()
        assert status is not None
        assert (status.phase, status.reason, status.observed_generation) == ("idle", "noded was asked to stop", 1)


async def test_killed_with_its_program_it_converges_again(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """kill -9: the program does not outlive noded, and the next noded of the host need not wait for the lease."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start("--lease-ttl", "60")
        pid = await node.shows("one")
        await first.kill()
        await gone(node, pid)
        await node.order("two", 2)
        await node.start("--lease-ttl", "60")
        await node.shows("two", but_pid=pid)
        await node.ready(2)


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use cannot be removed")
async def test_work_directory_wiped_while_it_runs(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A wiped work directory is drift: noded makes it again, and the program is restarted in it."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.ready(1)
        node.work.rename(tmp_path / "wiped")  # the program writes into it: removing it file by file would be a race
        await node.shows("one", but_pid=pid)
        status = await node.reached(lambda status: status.actual.get("restarts") == 1, "the restart to be told")
        assert "working directory was removed" in status.reason
        assert (node.work / ".noded" / "applied.json").exists()


async def test_work_directory_wiped_while_it_is_dead(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node that lost everything on disk comes back from etcd alone."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start()
        pid = await node.shows("one")
        await first.kill()
        await gone(node, pid)
        shutil.rmtree(node.work)
        await node.start()
        await node.shows("one", but_pid=pid)
        await node.ready(1)


async def test_document_file_altered(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A change of the document file is undone at the next tick, without a restart."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.ready(1)
        path = node.work / "document.json"
        path.write_text('{"scene": "mine"}')

        async def right() -> bool:
            return path.exists() and json.loads(path.read_bytes()) == {"scene": "one"}

        await node.until(right, "the document to be put right")
        assert await node.shows("one") == pid


def running_programs(work: Path) -> list[int]:
    """Programs of noded that run in that work directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if "NODECTL_DOCUMENT" in process.environ() and process.cwd() == str(work) and runs(process.pid):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
async def test_cut_after_each_step_the_next_one_converges(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Killed as soon as it has begun, claimed, begun to apply, started the program, and reported, over and over: the
    next noded ends up with one program, in the newest state."""
    async with rig(etcd_one, keys, tmp_path) as node:
        steps: list[Callable[[Noded], Awaitable[Any]]] = [
            lambda noded: node.says(noded, "starts;"),
            lambda noded: node.says(noded, "holds the claim"),
            lambda noded: node.says(noded, "applies by driver process"),
            lambda noded: node.until(lambda: _true(bool(running_programs(node.work))), "the program"),
            lambda noded: node.ready(5),
        ]
        for generation, step in enumerate(steps, 1):
            await node.order(f"scene {generation}", generation)
            noded = await node.start("--lease-ttl", "60")
            await step(noded)
            await noded.kill()
        before = node.shown()["pid"]  # it may not have ended yet
        await node.start("--lease-ttl", "60")
        pid = await node.shows(f"scene {len(steps)}", but_pid=before)
        await node.ready(len(steps))
        await node.until(lambda: _true(running_programs(node.work) == [pid]), "that program alone")


async def _true(value: bool) -> bool:
    return value
