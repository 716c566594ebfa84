"""Which values of `desired/<node>` are obeyed while etcd is emptied, replaced, or loses the key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from noded.reconcile.orders import Orders
from noded.reconcile.store_gate import StoreGate
from nodestore.cluster.store_identity import StoreIdentity
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Epoch, Spec
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd

KEYS = Keys("test")
KEY = KEYS.desired_of("n1")


@dataclass
class Bench:
    """A gate that has passed on order 1.5.7."""

    server: FakeEtcd
    etcd: Etcd
    store: StoreIdentity
    orders: Orders
    gate: StoreGate

    @property
    def order(self) -> tuple[int, int, int] | None:
        return None if self.orders.desired is None else self.orders.desired.order


def order(epoch: int, term: int, generation: int) -> bytes:
    return Desired(epoch=epoch, term=term, generation=generation, spec=Spec(driver="x")).encode()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    server = FakeEtcd()
    async with Etcd(SETTINGS, connect=server.connect) as etcd:
        await etcd.put(KEYS.epoch, Epoch(epoch=1).encode())
        store, orders = StoreIdentity(etcd, KEYS), Orders(KEY)
        made = Bench(server, etcd, store, orders, StoreGate(etcd, KEY, store, orders))
        await etcd.put(KEY, order(1, 5, 7))
        await made.gate.pass_on(order(1, 5, 7))
        assert made.order == (1, 5, 7)
        yield made


def test_another_store_changes_nothing() -> None:
    """Neither an absent key nor an order of it is obeyed, and the reason is kept for the status."""

    async def run() -> None:
        async with bench() as b:
            b.server.replace(None, cluster_id=2)
            await b.gate.pass_on(None)
            assert b.order == (1, 5, 7)
            assert "another store" in (b.orders.store_problem or "")
            await b.etcd.put(KEYS.epoch, Epoch(epoch=1).encode())
            await b.gate.pass_on(order(1, 9, 9))
            assert b.order == (1, 5, 7)

    with VirtualTime() as world:
        world.run(run())


def test_the_order_of_a_higher_epoch_is_obeyed() -> None:
    """Its generation may be lower. The reason is gone then."""

    async def run() -> None:
        async with bench() as b:
            b.server.replace(None, cluster_id=2)
            await b.gate.pass_on(None)
            await b.etcd.put(KEYS.epoch, Epoch(epoch=2).encode())
            await b.gate.pass_on(order(2, 3, 1))
            assert (b.order, b.orders.store_problem) == ((2, 3, 1), None)

    with VirtualTime() as world:
        world.run(run())


def test_a_deleted_order_that_is_written_again_at_once_stops_nothing() -> None:
    """The absence is obeyed only if it lasts."""

    async def run() -> None:
        async with bench() as b:
            await b.etcd.delete(KEY)
            passing = asyncio.create_task(b.gate.pass_on(None))
            await asyncio.sleep(1.0)
            assert b.order == (1, 5, 7)
            await b.etcd.put(KEY, order(1, 5, 7))
            await passing
            assert b.order == (1, 5, 7)
            await b.etcd.delete(KEY)
            await b.gate.pass_on(None)
            assert b.order is None

    with VirtualTime() as world:
        world.run(run())
