"""A snapshot can be looked up by its full name or by the name that an operator gave it."""

from __future__ import annotations

import hashlib

import pytest

from masterd.replication.snapshots import Snapshots
from nodestore.errors import NotFound
from nodestore.etcd.session import Etcd, op_delete
from nodestore.schema.keys import Keys
from nodestore.schema.models import Manifest
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

KEYS = Keys("test")


def _manifest(index: int, name: str | None) -> Manifest:
    return Manifest(
        index=index, nonce="abcd", chunks=0, size_bytes=0, sha256="", time=0.0, epoch=1, documents=0, name=name
    )


OLD, NEW = KEYS.snapshot_name(10, "abcd"), KEYS.snapshot_name(20, "abcd")
MANIFESTS = {OLD: _manifest(10, "good"), NEW: _manifest(20, None)}


async def _lookup(name: str) -> tuple[tuple[str, Manifest] | None, tuple[str, Manifest] | str]:
    """Return the results of `lookup` and `find`; in place of `find`'s NotFound, its text."""
    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        for full, manifest in MANIFESTS.items():
            await etcd.put(f"{KEYS.snapshot(full)}manifest", manifest.encode())
        snapshots = Snapshots(etcd, KEYS)
        try:
            return await snapshots.lookup(name), await snapshots.find(name)
        except NotFound as error:
            return await snapshots.lookup(name), str(error)


@pytest.mark.parametrize(("name", "full"), [("good", OLD), (OLD, OLD), (NEW, NEW)])
def test_a_snapshot_has_two_names(name: str, full: str) -> None:
    """Both names find the snapshot. The full name is made of its index and nonce; the other one is optional."""
    with VirtualTime() as world:
        expected = full, MANIFESTS[full]
        assert world.run(_lookup(name)) == (expected, expected)


@pytest.mark.parametrize("name", ["bad", "", "None", OLD[:-1]])
def test_a_name_that_no_snapshot_has(name: str) -> None:
    """The error names the command that lists the snapshots."""
    with VirtualTime() as world:
        assert world.run(_lookup(name)) == (None, f"there is no snapshot {name!r} (nodectl snapshot list)")


async def _lost_after_deletion(*, is_refused: bool) -> list[str]:
    """The named snapshots that are found missing, after an operator asked to delete one and then it was gone."""
    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        key = f"{KEYS.snapshot(OLD)}manifest"
        manifest = MANIFESTS[OLD].model_copy(update={"sha256": hashlib.sha256().hexdigest()})
        await etcd.put(key, manifest.encode())
        snapshots = Snapshots(etcd, KEYS)
        snapshots.note_deletion(OLD)
        if is_refused:
            snapshots.note_kept(OLD)
        assert [name async for name, _ in snapshots.whole()] == [OLD]
        await etcd.txn([], [op_delete(key)])
        assert [name async for name, _ in snapshots.whole()] == []
        return snapshots.take_lost_named()


@pytest.mark.parametrize(("is_refused", "lost"), [(True, ["good"]), (False, [])])
def test_a_snapshot_whose_deletion_was_refused_is_missed_later(is_refused: bool, lost: list[str]) -> None:
    """Then no operator has deleted it. One that an operator deletes is not reported, even if it is still listed."""
    with VirtualTime() as world:
        assert world.run(_lost_after_deletion(is_refused=is_refused)) == lost
