"""The whole way back: a backup, the loss of etcd, the restore on every member, `nodectl recover`, and what comes after.

With real processes all along: etcd, etcdutl, masterd, noded, nodectl.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass
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
from tests.support.etcd_cluster import EtcdCluster, bump, lose_and_restore
from tests.support.masters import Masters
from tests.support.noded.nodes import Noded, run_noded
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
_TOO_EARLY_S = 5.0
"""A masterd that could lead would do so within this time."""


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


def expect_refused(said: CommandOutput, words: str) -> None:
    assert said.code == 4, said
    assert words in said.err, said


@dataclass
class Disaster:
    """One cluster from its backup to its recovery. The methods are the acts of the test, in order."""

    cluster: EtcdCluster
    masters: Masters
    node: Noded
    keys: Keys
    backup_file: Path
    saved: int = 0
    """Index of the last command in the backup."""
    lost: int = 0
    """Index of the last command that was acknowledged after the backup."""

    @property
    def nodectl(self) -> Nodectl:
        return Nodectl(self.cluster.endpoints, self.keys.cluster)

    async def back_up(self) -> None:
        """The backup has the cluster's position, and the SHA-256 of the file is reported."""
        self.saved = await set_text(self.masters, "kept")
        output = await self.nodectl("backup", str(self.backup_file), "-o", "json")
        assert (output.code, output.json["index"], output.json["epoch"]) == (0, self.saved, 1), output
        assert self.backup_file.stat().st_mode & 0o077 == 0  # it holds secrets
        assert hashlib.sha256(self.backup_file.read_bytes()).hexdigest() == output.json["sha256"]

    async def go_on_after_the_backup(self) -> None:
        """Commands are acknowledged, and obeyed by the node, that the backup lacks."""
        for number in range(3):
            self.lost = await set_text(self.masters, f"lost {number}")
        await self.node.ready(self.masters.etcd, self.keys, self.lost)

    async def start_a_master_too_early(self) -> None:
        """It remembers no store and does not lead, as the node names the lost one; recovery is refused meanwhile."""
        self.masters.start("m2")
        await self.masters.wait_candidate("m2")
        await asyncio.sleep(_TOO_EARLY_S)
        assert (await self.masters.leader()).record is None
        expect_refused(await self.nodectl("recover"), "master m2 on m2 still runs: stop masterd on every PC")
        assert await epoch_of(self.masters.etcd, self.keys) == 1
        self.masters.running["m2"].kill()

    async def recover(self) -> None:
        """Begin a new epoch, in which no master leads yet; a second `recover` changes nothing."""
        output = await self.nodectl("recover", "-o", "json")
        assert (output.code, output.json["epoch"], output.json["index"]) == (0, 2, self.saved), output
        assert output.json["last"]["name"] == "node.set"
        assert await self.masters.etcd.get(self.keys.leader) is None
        again = await self.nodectl("recover")
        assert again.code == 0
        assert "begun by an earlier `nodectl recover`" in again.err
        assert await epoch_of(self.masters.etcd, self.keys) == 2

    async def lead_in_the_new_epoch(self, old_fence: Fence, lost_revision: int) -> Fence:
        """The new term is greater than all that was lost, the state is that of the backup, and the node obeys."""
        etcd = self.masters.etcd
        await self._serve("m3", "--lease-ttl=60")
        fence = await fence_of(etcd, self.keys)
        assert fence.term > old_fence.term
        assert fence.term.revision > lost_revision
        assert await text_of(self.masters, "m3") == "kept"
        status = await self.node.ready(etcd, self.keys, self.saved)
        await eventually(lambda: obeyed(etcd, self.keys, 2), "the node obeys the new epoch", timeout_s=PATIENCE_S)
        assert status.observed_generation in (self.saved, self.lost)
        return fence

    async def refuse_a_client_that_knows_what_was_lost(self) -> None:
        """Its command comes after an index that is no more: a conflict, which names the restore."""
        values = {"node": "n1", "values": {"text": "late"}}
        late = {"id": "late", "after": self.lost, "name": "node.set", "args": values}
        with pytest.raises(Conflict, match="restored from a backup"):
            await self.masters.ask("m3", "POST", "/v1/commands", late)

    async def overrule_the_deposed_master(self, paused: psutil.Process, old_fence: Fence) -> int:
        """A late write under its fence fails; once it runs again, it follows the new epoch. Returns the last index."""
        etcd, document = self.masters.etcd, self.keys.document("nodes/n1")
        denied = await etcd.txn(old_fence.compares(self.keys), [op_put(document, b"{}")])
        assert not denied.succeeded
        paused.resume()
        new = await set_text(self.masters, "new")
        assert new == self.saved + 1

        async def caught_up() -> bool:
            with suppress(NotFound):  # it has dropped its state, and has not read it again yet
                found = await self.masters.ask("m1", "GET", "/v1/documents/nodes/n1?consistency=local")
                return bool(found["document"]["text"] == "new")
            return False

        await eventually(caught_up, "the paused master has forgotten the lost epoch", timeout_s=PATIENCE_S)
        await self.node.ready(etcd, self.keys, new)
        return new

    async def check_history(self, fence: Fence, last: int) -> None:
        """The journal has no gap and ends in the new term; only the new leader has led in the new epoch."""
        etcd, keys = self.masters.etcd, self.keys
        entries = [decode(Entry, kv.value, kv.key) for kv in (await etcd.range(keys.journal)).kvs]
        assert [entry.last for entry in entries] == list(range(1, last + 1))
        assert (entries[-1].epoch, entries[-1].term) == fence.term
        terms = [decode(TermRecord, kv.value, kv.key) for kv in (await etcd.range(keys.terms)).kvs]
        assert [(term.id, term.epoch) for term in terms if term.epoch > 1] == [("m3", 2)]

    async def _serve(self, name: str, *arguments: str) -> None:
        self.masters.start(name, arguments=arguments)
        await self.masters.wait_serving(name, PATIENCE_S)


async def test_everything_is_lost_but_a_backup(keys: Keys, tmp_path: Path) -> None:
    """Three members are restored.

    A master that was paused and a node that kept running follow the new leader. Commands after the backup are lost, and
    a client that knows of them gets a conflict.
    """
    async with (
        EtcdCluster(3) as cluster,
        Masters(cluster, keys) as masters,
        run_noded(cluster.endpoints, keys, "n1") as node,
    ):
        await masters.configure(INVENTORY)
        paused = psutil.Process(masters.start("m1").process.pid)
        await masters.wait_serving("m1", PATIENCE_S)
        disaster = Disaster(cluster, masters, node, keys, tmp_path / "wall.db")

        await disaster.back_up()
        await disaster.go_on_after_the_backup()
        old_fence, lost_revision = await fence_of(masters.etcd, keys), (await masters.etcd.range(keys.prefix)).revision
        paused.suspend()
        await lose_and_restore(cluster, disaster.backup_file, bump())

        await disaster.start_a_master_too_early()
        await disaster.recover()
        fence = await disaster.lead_in_the_new_epoch(old_fence, lost_revision)
        await disaster.refuse_a_client_that_knows_what_was_lost()
        last = await disaster.overrule_the_deposed_master(paused, old_fence)
        await disaster.check_history(fence, last)
        expect_refused(await disaster.nodectl("recover", "--yes"), "still runs")


async def obeyed(etcd: Etcd, keys: Keys, epoch: int) -> bool:
    found, wanted = await etcd.get(keys.status_of("n1")), await etcd.get(keys.desired_of("n1"))
    assert wanted is not None
    assert decode(Desired, wanted.value, wanted.key).epoch == epoch
    return found is not None and f'"epoch":{epoch}'.encode() in found.value


@pytest.mark.nightly
async def test_a_store_that_was_not_restored_or_not_as_it_must_be(keys: Keys, tmp_path: Path) -> None:
    """The error names what is missing, and nothing changes unless the check is overridden."""
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
        expect_refused(await nodectl("backup", str(file)), "exists already")
        expect_refused(await nodectl("recover"), "does not look restored")
        await lose_and_restore(cluster, file, ())
        expect_refused(await nodectl("recover"), "--bump-revision")
        await lose_and_restore(cluster, file, ["--bump-revision=1000000", "--mark-compacted"])
        expect_refused(await nodectl("recover"), "the largest is 1,000,00")
        assert await epoch_of(masters.etcd, keys) == 1
        said = await nodectl("recover", "--yes", "-o", "name")
        assert (said.code, said.out) == (0, "2\n"), said
        assert "does not look restored" in said.err
        # the same backup once more, now as it must be: the gap counts from the epoch that the backup has
        await lose_and_restore(cluster, file, bump())
        said = await nodectl("recover", "-o", "name")
        assert (said.code, said.out) == (0, "2\n"), said


async def test_members_that_were_restored_differently(keys: Keys, tmp_path: Path) -> None:
    """Such members would serve different data without any error."""
    file = tmp_path / "wall.db"
    async with EtcdCluster(3) as three, EtcdCluster(1) as other, Masters(three, keys) as masters:
        masters.start("m1")
        await masters.wait_serving("m1", PATIENCE_S)
        nodectl = Nodectl(three.endpoints, keys.cluster)
        assert (await nodectl("backup", str(file))).code == 0
        masters.running["m1"].kill()
        mixed = Nodectl((*three.endpoints, *other.endpoints), keys.cluster)
        expect_refused(await mixed("recover"), "is a member of another etcd cluster")
        await lose_and_restore(three, file, bump(), ["--bump-revision=2000000000", "--mark-compacted"])
        expect_refused(await nodectl("recover"), "different numbers for --bump-revision")


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

    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
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
