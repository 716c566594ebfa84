"""The desired states are read when they are needed; a masterd receives no event when one is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from masterd.replication import desired_states
from masterd.replication.cluster_view import ClusterView
from masterd.replication.desired_states import DesiredStates
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Spec
from tests.faults.network.proxy import Mode
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.link import FakeCall, Link
from tests.support.waiting import eventually

KEYS = Keys("test")


class _CountingLink(Link):
    """A link that counts its calls."""

    calls = 0

    def carry_up(self, call: FakeCall, arrive: Callable[[], None], late_s: float = 0.0) -> None:
        self.calls += 1
        super().carry_up(call, arrive, late_s)


class _Store:
    def __init__(self) -> None:
        server = FakeEtcd()
        self.link = _CountingLink(server)
        self.writer = Etcd(SETTINGS, connect=server.connect)
        self.reader = Etcd(SETTINGS, connect=self.link.connect)
        self.garbage: dict[str, str] = {}
        self.states = DesiredStates(self.reader, KEYS, self.garbage)

    async def order(self, node: str, generation: int) -> None:
        desired = Desired(epoch=1, term=1, generation=generation, spec=Spec(driver="x", settings={}, document={}))
        await self.writer.put(KEYS.desired_of(node), desired.encode())

    async def shown(self) -> dict[str, int]:
        await self.states.refresh()
        return {node: desired.generation for node, desired in (self.states.items or {}).items()}


@asynccontextmanager
async def _store() -> AsyncIterator[_Store]:
    store = _Store()
    try:
        yield store
    finally:
        await store.reader.close()
        await store.writer.close()


def _run(work: Callable[[_Store], Awaitable[Any]]) -> None:
    async def whole() -> None:
        async with _store() as store:
            await work(store)

    with VirtualTime() as world:
        world.run(whole())


def test_each_read_shows_what_was_written_before() -> None:
    """Changed, deleted and unreadable keys, too."""

    async def work(store: _Store) -> None:
        assert store.states.items is None
        for number in (1, 2):
            await store.order("n1", number)
            await store.order("n2", 7)
            assert await store.shown() == {"n1": number, "n2": 7}
        await store.writer.delete(KEYS.desired_of("n2"))
        await store.writer.put(KEYS.desired_of("n3"), b"garbage")
        assert await store.shown() == {"n1": 2}
        assert list(store.garbage) == [KEYS.desired_of("n3")]
        await store.order("n3", 3)
        assert await store.shown() == {"n1": 2, "n3": 3}
        assert store.garbage == {}

    _run(work)


def test_without_etcd_the_last_values_remain() -> None:
    """And the read ends within its time limit, because a local read is answered without etcd."""

    async def work(store: _Store) -> None:
        await store.order("n1", 1)
        assert await store.shown() == {"n1": 1}
        assert store.states.is_current
        store.link.set(up=Mode.DROP)
        begun = asyncio.get_running_loop().time()
        assert await store.shown() == {"n1": 1}
        assert asyncio.get_running_loop().time() - begun <= desired_states._READ_S + 0.01
        assert not store.states.is_current

    _run(work)


def test_concurrent_readers_share_a_read() -> None:
    """One that began after the call of each: the first of them has a read of its own."""

    async def work(store: _Store) -> None:
        await store.shown()
        before = store.link.calls
        await asyncio.gather(*(store.states.refresh() for _ in range(50)))
        assert store.link.calls - before <= 2

    _run(work)


def test_a_masterd_receives_deletions_alone() -> None:
    """The leader writes a deleted desired state again at once, and no masterd receives those that are written."""

    async def work(store: _Store) -> None:
        view, deleted, received = ClusterView(store.reader, KEYS), list[str](), list[int]()
        view.subscribe_deleted_desired(deleted.append)
        view.subscribe(lambda: received.append(view.version))
        watch = asyncio.create_task(view.watch())
        try:
            await eventually(lambda: view.revision > 0, "all keys are listed")
            received.clear()
            for number in range(3):
                await store.order("n1", number + 1)
            await store.writer.delete(KEYS.desired_of("n1"))
            await eventually(lambda: bool(deleted), "the deletion is delivered")
            assert deleted == ["n1"]
            assert received == []
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    _run(work)
