"""The whole way back: a backup, the loss of etcd, the restore on every member, `nodectl recover`, and what comes after.

With real processes all along: etcd, etcdutl, masterd, noded, nodectl.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from nodectl.backup_restore import backup
from nodectl.backup_restore.recovery import widest_revision_gap
from nodestore.cluster.election import Fence
from nodestore.errors import Conflict, NotFound
from nodestore.etcd.session import Etcd, EtcdSettings, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Entry, Epoch, Inventory, LeaderRecord, Term, TermRecord, decode
from tests.support.cli import CommandOutput, Nodectl
from tests.support.etcd_cluster import EtcdCluster, find_etcd
from tests.support.masters import Masters
from tests.support.nodes import run_noded
from tests.support.waiting import eventually

INVENTORY = Inventory.model_validate(
    {
        "nodes": {"n1": {}},
        "defaults": {
            "driver": {"name": "process", "settings": {"argv": ["{python}", "-c", "import time; time.sleep(9999)"],
                                                       "settle_s": 0}}
        },
    }
)  # fmt: skip
PATIENCE_S = 60.0


def bump() -> list[str]:
    """As docs/recovery.md says: greater with each restore."""
    return [f"--bump-revision={time.time_ns() // 1_000_000}", "--mark-compacted"]


async def lose_and_restore(cluster: EtcdCluster, file: Path, options: Sequence[str], *others: Sequence[str]) -> None:
    """All members die and lose their disks; the backup is restored on each. `others`: another's options, by mistake."""
    for member in cluster.members:
        member.kill()
    etcdutl = find_etcd().with_name("etcdutl")
    peers = [f"http://127.0.0.1:{port}" for port in cluster.peer_ports]
    everybody = ",".join(f"{member.name}={peer}" for member, peer in zip(cluster.members, peers, strict=True))
    chosen = [*others, *[options] * (len(peers) - len(others))]
    for member, peer, own in zip(cluster.members, peers, chosen, strict=True):
        data = cluster.directory / member.name
        shutil.rmtree(data)
        command = [
            str(etcdutl), "snapshot", "restore", str(file), f"--name={member.name}", f"--data-dir={data}",
            f"--initial-cluster={everybody}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster-token=restored-{file.name}", *own,
        ]  # fmt: skip
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    cluster.spawn()
    await cluster.wait_healthy()


async def set_text(masters: Masters, text: str) -> int:
    answer = await masters.command("node.set", node="n1", values={"text": text})
    return int(answer["index"])


async def text_of(masters: Masters, name: str) -> Any:
    return (await masters.ask(name, "GET", "/v1/documents/nodes/n1"))["document"]["text"]


async def epoch_of(etcd: Etcd, keys: Keys) -> int:
    found = await etcd.get(keys.epoch)
    assert found is not None
    return decode(Epoch, found.value, found.key).epoch


async def fence_of(etcd: Etcd, keys: Keys) -> Fence:
    """What every write of the present leader compares."""
    leader, epoch = await etcd.get(keys.leader), await etcd.get(keys.epoch)
    assert leader is not None
    assert epoch is not None
    record = decode(LeaderRecord, leader.value, leader.key)
    return Fence(
        Term(decode(Epoch, epoch.value, epoch.key).epoch, leader.mod_revision), epoch.mod_revision, record.nonce
    )


def refused(said: CommandOutput, words: str) -> None:
    assert said.code == 4, said
    assert words in said.err, said


async def test_everything_is_lost_but_a_backup(keys: Keys, tmp_path: Path) -> None:
    """Three members are restored; a master that was paused through all of it, and a node that lived through it, obey
    the new leader; what was acknowledged after the backup is gone, and who knew of it is told so."""
    file = tmp_path / "wall.db"
    async with (
        EtcdCluster(3) as cluster,
        Masters(cluster, keys) as masters,
        run_noded(cluster.endpoints, keys, "n1") as node,
    ):
        nodectl = Nodectl(cluster.endpoints, keys.cluster)
        await masters.configure(INVENTORY)
        paused = masters.start("m1")
        await masters.wait_serving("m1", PATIENCE_S)
        saved = await set_text(masters, "kept")
        said = await nodectl("backup", str(file), "-o", "json")
        assert (said.code, said.json["index"], said.json["epoch"]) == (0, saved, 1), said
        assert hashlib.sha256(file.read_bytes()).hexdigest() == said.json["sha256"]
        lost = [await set_text(masters, f"lost {number}") for number in range(3)]
        await node.ready(masters.etcd, keys, lost[-1])
        old_fence, lost_revision = await fence_of(masters.etcd, keys), (await masters.etcd.range(keys.prefix)).revision
        psutil.Process(paused.process.pid).suspend()
        await lose_and_restore(cluster, file, bump())

        # a master is started too early: it leads, and recovering is refused until it is stopped
        masters.start("m2")
        await masters.wait_serving("m2", PATIENCE_S)
        refused(await nodectl("recover"), "master m2 on m2 still runs: stop masterd on every PC")
        assert await epoch_of(masters.etcd, keys) == 1
        masters.running["m2"].kill()

        said = await nodectl("recover", "-o", "json")
        assert (said.code, said.json["epoch"], said.json["index"]) == (0, 2, saved), said
        assert said.json["last"]["name"] == "node.set"
        assert await masters.etcd.get(keys.leader) is None
        again = await nodectl("recover")
        assert again.code == 0
        assert "begun by an earlier `nodectl recover`" in again.err
        assert await epoch_of(masters.etcd, keys) == 2

        masters.start("m3", arguments=("--lease-ttl=60",))
        await masters.wait_serving("m3", PATIENCE_S)
        fence = await fence_of(masters.etcd, keys)
        assert fence.term > old_fence.term
        assert fence.term.revision > lost_revision
        assert await text_of(masters, "m3") == "kept"
        status = await node.ready(masters.etcd, keys, saved)
        await eventually(lambda: obeyed(masters.etcd, keys, 2), "the node obeys the new epoch", timeout_s=PATIENCE_S)
        assert status.observed_generation in (saved, lost[-1])

        late = {"id": "late", "after": lost[-1], "name": "node.set", "args": {"node": "n1", "values": {"text": "late"}}}
        with pytest.raises(Conflict, match="restored from a backup"):
            await masters.ask("m3", "POST", "/v1/commands", late)

        # the deposed: a late write, and the paused master itself
        denied = await masters.etcd.txn(old_fence.compares(keys), [op_put(keys.document("nodes/n1"), b"{}")])
        assert not denied.succeeded
        psutil.Process(paused.process.pid).resume()
        new = await set_text(masters, "new")
        assert new == saved + 1

        async def caught_up() -> bool:
            with suppress(NotFound):  # it has forgotten, and not read anew yet
                found = await masters.ask("m1", "GET", "/v1/documents/nodes/n1?consistency=local")
                return bool(found["document"]["text"] == "new")
            return False

        await eventually(caught_up, "the paused master has forgotten the lost epoch", timeout_s=PATIENCE_S)
        await node.ready(masters.etcd, keys, new)
        entries = [decode(Entry, kv.value, kv.key) for kv in (await masters.etcd.range(keys.journal)).kvs]
        assert [entry.last for entry in entries] == list(range(1, new + 1))
        assert (entries[-1].epoch, entries[-1].term) == fence.term
        terms = [decode(TermRecord, kv.value, kv.key) for kv in (await masters.etcd.range(keys.terms)).kvs]
        assert [(term.id, term.epoch) for term in terms if term.epoch > 1] == [("m3", 2)]
        refused(await nodectl("recover", "--yes"), "still runs")


async def obeyed(etcd: Etcd, keys: Keys, epoch: int) -> bool:
    found, wanted = await etcd.get(keys.status_of("n1")), await etcd.get(keys.desired_of("n1"))
    assert wanted is not None
    assert decode(Desired, wanted.value, wanted.key).epoch == epoch
    return found is not None and f'"epoch":{epoch}'.encode() in found.value


async def test_a_store_that_was_not_restored_or_not_as_it_must_be(keys: Keys, tmp_path: Path) -> None:
    """It is said what is missing, and nothing changes unless one insists."""
    file = tmp_path / "wall.db"
    async with EtcdCluster(1) as cluster, Masters(cluster, keys) as masters:
        nodectl = Nodectl(cluster.endpoints, keys.cluster)
        said = await nodectl("recover")
        assert said.code == 3
        assert "there is no cluster" in said.err
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1", PATIENCE_S)
        await set_text(masters, "kept")
        assert (await nodectl("backup", str(file))).code == 0
        masters.running["m1"].kill()
        refused(await nodectl("backup", str(file)), "exists already")
        refused(await nodectl("recover"), "does not look restored")
        await lose_and_restore(cluster, file, ())
        refused(await nodectl("recover"), "--bump-revision")
        await lose_and_restore(cluster, file, ["--bump-revision=1000000", "--mark-compacted"])
        refused(await nodectl("recover"), "the largest is 1,000,00")
        assert await epoch_of(masters.etcd, keys) == 1
        said = await nodectl("recover", "--yes", "-o", "name")
        assert (said.code, said.out) == (0, "2\n"), said
        assert "does not look restored" in said.err
        # the same backup once more, now as it must be: the gap counts from the epoch that the backup has
        await lose_and_restore(cluster, file, bump())
        said = await nodectl("recover", "-o", "name")
        assert (said.code, said.out) == (0, "2\n"), said


async def test_members_that_were_restored_differently(keys: Keys, tmp_path: Path) -> None:
    """They would serve different data, and nobody would notice."""
    file = tmp_path / "wall.db"
    async with EtcdCluster(3) as three, EtcdCluster(1) as other, Masters(three, keys) as masters:
        masters.start("m1")
        await masters.wait_serving("m1", PATIENCE_S)
        nodectl = Nodectl(three.endpoints, keys.cluster)
        assert (await nodectl("backup", str(file))).code == 0
        masters.running["m1"].kill()
        mixed = Nodectl((*three.endpoints, *other.endpoints), keys.cluster)
        refused(await mixed("recover"), "is a member of another etcd cluster")
        await lose_and_restore(three, file, bump(), ["--bump-revision=2000000000", "--mark-compacted"])
        refused(await nodectl("recover"), "different numbers for --bump-revision")


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_a_backup_is_whole_or_not_there(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy whose hash does not fit gets no name, and leaves nothing behind."""
    from nodestore.etcd import maintenance

    original = maintenance.download_database

    async def damaged(etcd: Etcd, endpoint: str) -> Any:
        first = True
        async for blob in original(etcd, endpoint):
            yield blob if not first else bytes([blob[0] ^ 1]) + blob[1:]
            first = False

    async with Etcd(EtcdSettings(etcd_one.endpoints)) as etcd:
        await etcd.put(keys.epoch, Epoch(epoch=1).encode())
        with monkeypatch.context() as patch:
            patch.setattr(maintenance, "download_database", damaged)
            with pytest.raises(Exception, match="damaged or incomplete"):
                await backup.save_backup(etcd, keys, tmp_path / "a.db", lambda _: None)
        assert names_in(tmp_path) == []
        saved = await backup.save_backup(etcd, keys, tmp_path / "a.db", lambda _: None)
        assert names_in(tmp_path) == ["a.db"]
        assert saved.bytes == (tmp_path / "a.db").stat().st_size
        with pytest.raises(Conflict):
            await backup.save_backup(etcd, keys, tmp_path / "a.db", lambda _: None)
        with pytest.raises(FileNotFoundError):
            await backup.save_backup(etcd, keys, tmp_path / "nowhere" / "a.db", lambda _: None)


@pytest.mark.parametrize(
    ("revisions", "epoch", "now", "expected"),
    [
        ([], 5, 5, 0),
        ([6, 7, 9], 5, 9, 2),
        ([6, 7], 5, 1_007, 1_000),
        ([6, 7, 1_008], 5, 1_010, 1_001),  # a node has written since the restore
        ([1, 2, 900, 901], 900, 905, 4),  # the gap of an earlier restore does not count
    ],
)
def test_the_gap_that_a_restore_leaves(revisions: list[int], epoch: int, now: int, expected: int) -> None:
    """Between the revisions of our keys, since the epoch began."""
    assert widest_revision_gap(revisions, epoch, now) == expected
