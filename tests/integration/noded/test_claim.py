"""Which noded drives the node: waiting for, replacing and losing the claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from nodestore.schema.models import Status, Waiting, decode
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import NODE, Rig, rig, runs
from tests.support.waiting import eventually


async def _waiting(node: Rig) -> list[Waiting]:
    """The nodeds that show that they wait for the claim."""
    found = (await node.etcd.range(node.keys.waiting)).kvs
    return [decode(Waiting, kv.value, kv.key) for kv in found]


async def test_other_host_waits_and_takes_over(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Two PCs with one name: the second drives nothing until the first's lease has ended."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start("--lease-ttl", "60")
        await node.shows("one")
        other = tmp_path / "other"
        second = await node.start(host_id="host-b", work=other)
        await node.says(second, "waits and drives nothing")
        before = await node.ready(1)

        async def is_shown() -> bool:
            return [item.host_id for item in await _waiting(node)] == ["host-b"]

        await eventually(is_shown, "etcd shows that the second one waits")
        await first.kill()
        assert not (other / "document.json").exists()
        claim = await node.etcd.get(keys.alive_of(NODE))
        assert claim is not None
        await node.etcd.revoke(claim.lease)
        await node.shows("one", work=other)
        status = await node.reached(lambda status: status.nonce != before.nonce, "the other host's status")
        alive = await node.alive()
        assert alive is not None
        assert (alive.host_id, alive.nonce) == ("host-b", status.nonce)
        assert await _waiting(node) == []


async def test_same_host_puts_over_and_the_older_one_ends(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A second noded of the same host has the node at once; the first stops its program and exits with an error."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start("--lease-ttl", "60")
        await node.shows("one")
        old = await node.ready(1)
        other = tmp_path / "other"
        await node.start("--lease-ttl", "60", work=other)
        assert await first.ended() == 4
        assert "another noded has taken over node n1" in first.log
        assert "Traceback" not in first.log
        await node.shows("one", work=other, but_pid=old.actual["pid"])
        await node.reached(lambda now: now.phase == "ready" and now.nonce != old.nonce, "the new noded")
        assert not runs(old.actual["pid"])


async def test_a_second_noded_in_one_work_directory_refuses(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """It names the directory, and the first one goes on undisturbed."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        second = await node.start()
        assert await second.ended() == 4
        assert f"another noded uses the work directory {node.work}" in second.log
        assert runs(pid)


async def replaced_while_frozen(node: Rig, host_id: str, work: Path) -> tuple[Status, int]:
    """A noded is frozen, one of this host takes over, and the first wakes: it stops its program and ends.

    Returns the successor's status and the pid of its program.
    """
    await node.order("one", 1)
    first = await node.start()
    pid = await node.shows("one")
    old = await node.ready(1)
    child_processes.suspend(first.child.identity)
    await node.start(host_id=host_id, work=work)
    successors = await node.shows("one", work=work)
    new = await node.reached(lambda now: now.nonce != old.nonce and now.phase == "ready", "the successor")
    child_processes.resume(first.child.identity)
    assert await first.ended() == 4
    assert not runs(pid)
    return new, successors


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")
async def test_a_replaced_noded_that_wakes_leaves_its_successors_program(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """One host, two work directories: the first noded is frozen, the second takes over, the first wakes and ends."""
    async with rig(etcd_one, keys, tmp_path) as node:
        new, successors = await replaced_while_frozen(node, "host-a", tmp_path / "other")
        assert runs(successors)
        assert (await node.ready(1)).actual == new.actual


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")
async def test_paused_past_its_lease_it_finds_itself_replaced(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """A noded that slept while another host took the node writes nothing when it wakes, stops, and exits."""
    async with rig(etcd_one, keys, tmp_path) as node:
        new, _ = await replaced_while_frozen(node, "host-b", tmp_path / "other")
        assert (await node.ready(1)).nonce == new.nonce


async def test_damage_to_its_keys_is_put_right(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A deleted or garbled claim is written again; a garbled status is replaced at the next change."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        await node.ready(1)
        for damage in (None, b"garbage"):
            if damage is None:
                await node.etcd.delete(keys.alive_of(NODE))
            else:
                await node.etcd.put(keys.alive_of(NODE), damage)

            async def claimed() -> bool:
                found = await node.etcd.get(keys.alive_of(NODE))
                return found is not None and found.lease != 0

            await node.until(claimed, "the claim")
        await node.etcd.put(keys.status_of(NODE), b"garbage")
        await node.order("two", 2)

        async def told() -> bool:
            found = await node.etcd.get(keys.status_of(NODE))
            return found is not None and found.value != b"garbage"

        await node.until(told, "the status")
        await node.ready(2)
