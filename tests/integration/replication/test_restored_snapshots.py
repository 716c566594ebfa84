"""Entries that restore a snapshot: the snapshot outlives them, whatever is deleted, and however late."""

from __future__ import annotations

from typing import Any

import pytest

from masterd.replication.replica import Replica
from nodestore.errors import Conflict
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, Spec
from tests.faults.late import snapshots
from tests.faults.late.scenarios import code_of
from tests.faults.late.snapshots import restore_request
from tests.faults.late.transactions import configure, run_leader, session, wait_shown
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import ToyApp, same


async def test_a_snapshot_that_an_entry_names_outlives_a_late_deletion(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A late deletion of a snapshot has no effect after an entry has restored the snapshot."""
    await snapshots.deletion_that_lands_after_the_restore(etcd_one, keys)


async def test_a_snapshot_deleted_while_it_is_being_restored(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that is deleted during a restore is either not restored, or restored and kept."""
    async with session(etcd_one) as etcd, run_leader(etcd, etcd, keys) as seat:
        await seat.add("x1")
        await seat.leader.archive.save("good")
        await seat.add("x2")
        name, _ = await seat.replica.snapshots.find("good")
        to_restore = seat.leader.archive.prepare_restore

        async def and_then_it_goes(args: Any) -> Any:
            found = await to_restore(args)
            await etcd.delete(keys.snapshot(name), prefix=True)
            return found

        monkeypatch.setattr(seat.leader.archive, "prepare_restore", and_then_it_goes)
        assert code_of((await seat.submit(restore_request("good")))[0]) in ("conflict", "not_found")
        assert (await seat.add("x3")).result == 3
        monkeypatch.undo()
        await seat.leader.archive.save("third")
        assert (await seat.submit(restore_request("third")))[0].error is None
        with pytest.raises(Conflict):
            await seat.leader.archive.delete("third")
        fresh = Replica(etcd, keys)
        await fresh.catch_up()
        assert same(fresh.state, seat.replica.state)


async def test_a_restore_that_the_application_cannot_digest(etcd_one: EtcdCluster, keys: Keys) -> None:
    """If the application fails on a restored document, only that restore is refused and the specs stay as they are."""

    class Picky(ToyApp):
        picky = False

        def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
            document = view.get(f"nodes/{node}") or {}
            if self.picky and document.get("x") == 1:
                raise KeyError("x")
            return super().desired(config, view, node)

    app = Picky()
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys, application=app) as seat:
            await seat.put("nodes/n1", x=1)
            await seat.leader.archive.save("old")
            await seat.put("nodes/n1", x=2)
            app.picky = True
            assert code_of((await seat.submit(restore_request("old")))[0]) == "failed"
            await seat.put("nodes/n2", x=2)
            await wait_shown(etcd, keys, {"n1": {"x": 2}, "n2": {"x": 2}})
            generation = seat.replica.state.specs["n1"].generation
            await seat.put("nodes/n1", "the same document", x=2)
            assert seat.replica.state.specs["n1"].generation == generation, "the derived spec was the recorded one"
            await seat.put("nodes/n1", x=3)
            await wait_shown(etcd, keys, {"n1": {"x": 3}, "n2": {"x": 2}})
