"""Which store a reading of `epoch` shows, and what a daemon remembers of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodestore.cluster.store_identity import MarkFile, OtherStore, StoreIdentity, judge
from nodestore.etcd.session import KV, Etcd
from nodestore.etcd.types import Reading
from nodestore.schema.keys import Keys
from nodestore.schema.models import Epoch, StoreMark
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

KEYS = Keys("test")
KNOWN = StoreMark(cluster_id="a", epoch=3, revision=100)


def reading(cluster_id: str, epoch: int | bytes | None, revision: int) -> Reading:
    value = epoch if isinstance(epoch, bytes) else Epoch(epoch=epoch).encode() if epoch else None
    kv = None if value is None else KV(KEYS.epoch, value, 1, 1, 1, 0)
    return Reading(cluster_id, revision, kv)


@pytest.mark.parametrize(
    ("found", "revision", "words"),
    [
        (reading("a", 3, 100), 100, None),
        (reading("a", 3, 150), 150, None),
        (reading("a", 3, 99), 100, "its revision went back from 100 to 99"),
        (reading("b", 3, 150), 100, "its cluster id is b, not a"),
        (reading("b", None, 150), 100, "its cluster id is b, not a"),
        (reading("a", None, 150), 100, "is missing"),
        (reading("a", None, 50), 100, "its revision went back"),
        (reading("a", 2, 150), 100, "is 2, but epoch 3 had begun"),
        (reading("a", b"{oops", 150), 100, 'set it to {"v":1,"epoch":3}'),
        (reading("b", b"{oops", 150), 100, "its cluster id is b, not a"),
    ],
)
def test_another_store_is_never_remembered(found: Reading, revision: int, words: str | None) -> None:
    """Unless its epoch is higher, the mark stays, apart from the revision of the same store."""
    mark, problem = judge(KNOWN, found, KEYS.epoch)
    assert mark == KNOWN.model_copy(update={"revision": revision})
    assert (problem is None) if words is None else words in (problem or "")


@pytest.mark.parametrize(("cluster_id", "revision"), [("a", 150), ("b", 150), ("b", 1), ("a", 1)])
def test_a_higher_epoch_is_believed(cluster_id: str, revision: int) -> None:
    """In whichever etcd cluster, and at whichever revision: only `nodectl recover` begins one."""
    expected = StoreMark(cluster_id=cluster_id, epoch=4, revision=revision)
    assert judge(KNOWN, reading(cluster_id, 4, revision), KEYS.epoch) == (expected, None)


def test_what_is_found_first_is_believed() -> None:
    """Without an epoch there is nothing to remember yet."""
    assert judge(None, reading("a", 1, 5), KEYS.epoch) == (StoreMark(cluster_id="a", epoch=1, revision=5), None)
    assert judge(None, reading("a", None, 5), KEYS.epoch) == (None, None)
    mark, problem = judge(None, reading("a", b"{oops", 5), KEYS.epoch)
    assert mark is None
    assert "set it to" not in (problem or ""), "a value would be a guess"


async def test_the_mark_survives_a_restart(tmp_path: Path) -> None:
    """It is saved at the first check and read at the next start. A file that is damaged is ignored."""
    server, memory = FakeEtcd(), MarkFile(tmp_path, KEYS.cluster)
    async with Etcd(SETTINGS, connect=server.connect) as etcd:
        await etcd.put(KEYS.epoch, Epoch(epoch=1).encode())
        first = StoreIdentity(etcd, KEYS, memory)
        assert not first.remembered_at_start
        running = asyncio.create_task(first.run())
        while memory.load() is None:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server.replace(None, cluster_id=1)
        again = StoreIdentity(etcd, KEYS, memory)
        assert again.remembered_at_start
        await again.check()
        with pytest.raises(OtherStore, match="its revision went back"):
            again.raise_if_other()
    _damage(tmp_path)
    assert memory.load() is None


def _damage(directory: Path) -> None:
    (file,) = directory.iterdir()
    file.write_bytes(b"{oops")


async def test_watches_list_anew_in_another_store() -> None:
    """They would otherwise wait for a revision that the store does not reach for long."""
    server = FakeEtcd()
    async with Etcd(SETTINGS, connect=server.connect) as etcd:
        await etcd.put(KEYS.epoch, Epoch(epoch=1).encode())
        store = StoreIdentity(etcd, KEYS)
        await store.check()
        assert etcd.watch_restarts == 0
        server.replace(None, cluster_id=2)
        await store.check()
        await store.check()
        assert etcd.watch_restarts == 1
        await etcd.put(KEYS.epoch, Epoch(epoch=2).encode())
        await store.check()
        assert (etcd.watch_restarts, store.problem) == (2, None)


async def test_a_disk_that_cannot_be_written_is_reported() -> None:
    """The daemon goes on and remembers in memory."""

    class Full:
        def load(self) -> StoreMark | None:
            return None

        async def save(self, mark: StoreMark) -> None:
            raise OSError(28, "No space left on device")

    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        await etcd.put(KEYS.epoch, Epoch(epoch=1).encode())
        store = StoreIdentity(etcd, KEYS, Full())
        running = asyncio.create_task(store.run())
        while store.save_problem is None:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert "No space left" in store.save_problem
        assert store.mark is not None
