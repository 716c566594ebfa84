"""How a new leader completes the views: interrupted ones, of another epoch or version, or altered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from masterd.term.config_adoption import ConfigAdopter
from masterd.term.leader import Leader, LeaderSettings
from masterd.term.publisher import Publisher
from nodestore.errors import (
    Unavailable,
)
from nodestore.schema.keys import Keys
from nodestore.schema.models import Applied, Epoch, Inventory, Spec, decode
from tests.faults.late.transactions import configure, desired, run_leader, session
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import ToyApp, inventory


async def test_a_new_epoch_orders_every_node_anew(etcd_one: EtcdCluster, keys: Keys) -> None:
    """In a new epoch every desired document is written again with its generation, and no document's view is."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat:
            await seat.put("nodes/n1", x=1)
            await seat.put("nodes/n2", x=2)
        before, documents = await desired(etcd, keys), (await etcd.range(keys.state)).kvs
        await etcd.delete(keys.leader)
        await etcd.put(keys.epoch, Epoch(epoch=2).encode())
        async with run_leader(etcd, etcd, keys) as seat:
            after = await desired(etcd, keys)
            assert {node: wanted.epoch for node, (wanted, _) in after.items()} == {"n1": 2, "n2": 2}
            assert all(after[node][0].generation == before[node][0].generation for node in after)
            assert all(after[node][0].order > before[node][0].order for node in after)
            assert (await etcd.range(keys.state)).kvs == documents
            assert seat.won.fence.term.epoch == 2
        first = {node: kv.mod_revision for node, (_, kv) in after.items()}
        async with run_leader(etcd, etcd, keys):
            assert {node: kv.mod_revision for node, (_, kv) in (await desired(etcd, keys)).items()} == first


async def test_orders_of_an_earlier_term_stay_in_force(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A takeover that completes the views does not rewrite desired documents that are correct."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat:
            await seat.put("nodes/n1", x=1)
            await seat.put("nodes/n2", x=2)
            index = seat.replica.index
        before = await desired(etcd, keys)
        wrong = replace(before["n2"][1], value=before["n2"][1].value.replace(b'"x":2', b'"x":9'))
        await etcd.put(wrong.key, wrong.value)
        await etcd.put(keys.document("stray"), b"{}")
        await etcd.delete(keys.document("nodes/n1"))
        await etcd.put(keys.applied, Applied(index=index, base=index - 1, through=keys.desired_of("n1")).encode())
        async with run_leader(etcd, etcd, keys, "m2") as seat:
            after = await desired(etcd, keys)
            assert after["n1"][1] == before["n1"][1]
            assert after["n2"][0].spec.document == {"x": 2}
            assert after["n2"][0].term == seat.won.fence.term.revision
            views = [kv.key for kv in (await etcd.range(keys.state)).kvs]
            assert views == [keys.document("nodes/n1"), keys.document("nodes/n2")]


@pytest.mark.parametrize("value", [b"not json", b'{"v":9}'])
async def test_garbage_in_applied_is_put_right(etcd_one: EtcdCluster, keys: Keys, value: bytes) -> None:
    """If `applied` is garbage, all views are compared and `applied` is repaired."""
    async with session(etcd_one) as etcd:
        async with run_leader(etcd, etcd, keys) as seat:
            await seat.put("p", x=1)
        await etcd.put(keys.applied, value)
        await etcd.delete(keys.document("p"))
        async with run_leader(etcd, etcd, keys, "m2"):
            assert await etcd.get(keys.document("p")) is not None
            found = await etcd.get(keys.applied)
            assert found is not None
            assert decode(Applied, found.value, found.key).through is None


async def test_views_are_finished_within_the_store_s_own_limits(keys: Keys) -> None:
    """A new leader completes the views even if etcd allows only few operations in a transaction."""
    async with EtcdCluster(1, flags=("--max-txn-ops=16",)) as cluster, session(cluster) as etcd:
        await configure(etcd, keys, inventory(*(f"n{number:02}" for number in range(30))))
        settings = LeaderSettings(max_txn_ops=16)
        async with run_leader(etcd, etcd, keys, settings=settings) as seat:
            for number in range(30):
                await seat.put(f"nodes/n{number:02}", x=number)
        await etcd.delete(keys.desired, prefix=True)
        await etcd.delete(keys.applied)
        async with run_leader(etcd, etcd, keys, "m2", settings=settings) as seat:
            assert len(await desired(etcd, keys)) == 30
            assert (await seat.put("p", x=1)).error is None


class Upgraded(ToyApp):
    """A version that derives something else from the same documents."""

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        spec = super().desired(config, view, node)
        return spec and Spec(driver="new", document=spec.document)


@pytest.mark.parametrize("cut", ["before respec", "before views", "before adoption"])
async def test_an_upgrade_that_dies_on_the_way_leaves_no_trace_in_the_views(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """Whichever version leads next, the nodes get its specs under a generation that has grown with them."""

    async def die(*_: Any) -> None:
        raise Unavailable("cut")

    async with session(etcd_one) as etcd:
        await configure(etcd, keys, inventory("n1"))
        async with run_leader(etcd, etcd, keys) as seat:
            index = (await seat.put("nodes/n1", x=1)).index
        half_done = Applied(index=index, base=index - 1, through=keys.desired_of("n1"))
        await etcd.put(keys.applied, half_done.encode())
        generations = [(await desired(etcd, keys))["n1"][0].generation]
        with monkeypatch.context() as patch:
            kind, name = {
                "before respec": (Leader, "_respec"),  # private: the takeover is to end at exactly this step
                "before views": (Publisher, "finish_views"),
                "before adoption": (ConfigAdopter, "adopt"),
            }[cut]
            patch.setattr(kind, name, die)
            with pytest.raises(Unavailable):
                async with run_leader(etcd, etcd, keys, "m2", application=Upgraded()):
                    pass
        for application, driver in ((ToyApp(), "toy"), (Upgraded(), "new"), (ToyApp(), "toy")):
            async with run_leader(etcd, etcd, keys, "m3", application=application) as seat:
                wanted = (await desired(etcd, keys))["n1"][0]
                assert wanted.spec.driver == driver
                assert wanted.generation == seat.replica.state.specs["n1"].generation >= generations[-1]
                generations.append(wanted.generation)
        assert generations[1] < generations[2] < generations[3]


class _FailsOnN1(ToyApp):
    """A version that cannot derive the spec of n1."""

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        if node == "n1" and "mended" not in (view.get("nodes/n1") or {}):
            raise ZeroDivisionError("n1")
        return super().desired(config, view, node)


@pytest.mark.parametrize("epoch", [1, 2])
async def test_a_node_whose_spec_cannot_be_derived_keeps_its_order_and_stops_no_leader(
    etcd_one: EtcdCluster, keys: Keys, epoch: int
) -> None:
    """Commands go on, those that concern that node too; the command that mends its document gives it an order."""
    async with session(etcd_one) as etcd:
        await configure(etcd, keys)
        async with run_leader(etcd, etcd, keys) as seat:
            await seat.put("nodes/n1", x=1)
            await seat.put("nodes/n2", x=2)
        before = (await desired(etcd, keys))["n1"][0]
        await etcd.delete(keys.leader)
        await etcd.put(keys.epoch, Epoch(epoch=epoch).encode())
        await etcd.delete(keys.applied)  # every view is compared with the state
        async with run_leader(etcd, etcd, keys, "m2", application=_FailsOnN1()) as seat:
            assert list(seat.leader.spec_failures) == ["n1"]
            kept = (await desired(etcd, keys))["n1"][0]
            assert (kept.epoch, kept.generation, kept.spec) == (epoch, before.generation, before.spec)
            assert (await seat.put("nodes/n2", x=3)).error is None
            assert (await seat.put("nodes/n1", x=4)).error is None
            assert (await desired(etcd, keys))["n1"][0] == kept
            outcome = await seat.put("nodes/n1", mended=True)
            mended = (await desired(etcd, keys))["n1"][0]
            assert (mended.generation, mended.spec.document) == (outcome.index, {"mended": True})
            assert seat.leader.spec_failures == {}
