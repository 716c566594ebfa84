"""Keys of nodes that left the inventory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.upkeep.removed_nodes import KEEP_S, RemovedNodes
from nodestore.cluster.election import Fence
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, Term
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

KEYS = Keys("test")


def inventory(*nodes: str) -> Inventory:
    return Inventory.model_validate({"nodes": {node: {} for node in nodes}})


class Rig:
    """A leader's view of two nodes, n1 and n2, with a clock that the test sets."""

    def __init__(self, etcd: Etcd, fence: Fence) -> None:
        self.etcd = etcd
        self.now = 0.0
        self.view: Any = SimpleNamespace(**{kind: SimpleNamespace(items={}) for kind in ("status", "acted", "alive")})
        self.view.status.items.update(n1=1, n2=1)
        self.view.acted.items.update(n2=1)
        self.state = SimpleNamespace(inventory=inventory("n1", "n2"), actions={})
        replica = cast(Replica, SimpleNamespace(state=self.state))
        self.removed = RemovedNodes(etcd, KEYS, fence, replica, cast(ClusterView, self.view), lambda: self.now)

    async def left(self) -> set[str]:
        found = await self.etcd.range(KEYS.prefix, keys_only=True)
        return {kv.key for kv in found.kvs} - {KEYS.leader, KEYS.epoch}

    async def after(self, seconds: float) -> set[str]:
        self.now += seconds
        await self.removed.check()
        return await self.left()


ALL = {KEYS.status_of("n1"), KEYS.status_of("n2"), KEYS.acted_of("n2")}


def with_rig(life: Callable[[Rig], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
            leader = await etcd.put(KEYS.leader, b"{}")
            epoch = await etcd.put(KEYS.epoch, b"{}")
            for key in ALL:
                await etcd.put(key, b"{}")
            await life(Rig(etcd, Fence(Term(1, leader), epoch, "nonce")))

    asyncio.run(run())


def test_an_hour_after_a_node_left_its_keys_are_deleted() -> None:
    """Not before, and not those of a node that is still there."""

    async def life(rig: Rig) -> None:
        assert await rig.after(2 * KEEP_S) == ALL
        rig.state.inventory = inventory("n1")
        assert await rig.after(0) == ALL
        assert await rig.after(KEEP_S - 1) == ALL
        assert await rig.after(1) == {KEYS.status_of("n1")}

    with_rig(life)


def test_a_node_that_returns_meanwhile_keeps_its_keys() -> None:
    """The hour begins anew when it leaves again."""

    async def life(rig: Rig) -> None:
        rig.state.inventory = inventory("n1")
        await rig.after(0)
        rig.state.inventory = inventory("n1", "n2")
        await rig.after(KEEP_S)
        rig.state.inventory = inventory("n1")
        assert await rig.after(1) == ALL
        assert await rig.after(KEEP_S - 1) == ALL

    with_rig(life)


def test_a_connected_noded_or_a_pending_action_keeps_them() -> None:
    """Known to the view, or only to etcd so far: the transaction compares."""

    async def life(rig: Rig) -> None:
        rig.state.inventory = inventory("n1")
        rig.view.alive.items["n2"] = 1
        await rig.after(0)
        assert await rig.after(KEEP_S) == ALL
        del rig.view.alive.items["n2"]
        rig.state.actions["n2"] = ()
        assert await rig.after(KEEP_S) == ALL
        rig.state.actions.clear()
        await rig.after(0)
        for key in (KEYS.alive_of("n2"), KEYS.actions_of("n2"), KEYS.desired_of("n2")):
            await rig.etcd.put(key, b"{}")
            assert await rig.after(KEEP_S) == {*ALL, key}
            await rig.etcd.delete(key)

    with_rig(life)


def test_a_deposed_leader_deletes_nothing() -> None:
    """Another one has the term, and may have configured the node again."""

    async def life(rig: Rig) -> None:
        rig.state.inventory = inventory("n1")
        await rig.after(0)
        await rig.etcd.put(KEYS.leader, b"{}")
        assert await rig.after(KEEP_S) == ALL

    with_rig(life)
