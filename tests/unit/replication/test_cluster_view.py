"""The cluster view can be brought up to a revision, so that a read of it is linearizable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from masterd.replication import cluster_view
from masterd.replication.cluster_view import ClusterView
from nodestore.errors import Unavailable
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Paused
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.link import LOST, FakeCall, FakeStream, Link
from tests.support.waiting import eventually

KEYS = Keys("test")


class _StallingLink(Link):
    """A link on which the test can hold up what streams bring, while calls are answered."""

    def __init__(self, server: FakeEtcd) -> None:
        super().__init__(server)
        self._held: list[tuple[FakeCall, Callable[[], None]]] | None = None

    def hold_streams(self) -> None:
        self._held = []

    def release_streams(self) -> None:
        held, self._held = self._held, None
        for call, arrive in held or ():
            self.carry_down(call, arrive)

    def carry_down(self, call: FakeCall, arrive: Callable[[], None]) -> None:
        if self._held is not None and isinstance(call, FakeStream):
            self._held.append((call, arrive))
        else:
            super().carry_down(call, arrive)


class _Store:
    """A store, a session that writes, and a view whose watch the test can hold up."""

    def __init__(self) -> None:
        server = FakeEtcd()
        self.link = _StallingLink(server)
        self.writer = Etcd(SETTINGS, connect=server.connect)
        self.reader = Etcd(SETTINGS, connect=self.link.connect)
        self.view = ClusterView(self.reader, KEYS)

    async def pause(self, reason: str) -> int:
        return await self.writer.put(KEYS.paused, Paused(actor="t", time=1.0, reason=reason).encode())

    @property
    def shown(self) -> str | None:
        return None if self.view.paused is None else self.view.paused.reason


@contextlib.asynccontextmanager
async def _watching() -> AsyncIterator[_Store]:
    store = _Store()
    watch = asyncio.create_task(store.view.watch())
    try:
        await eventually(lambda: store.view.revision > 0, "all keys are listed")
        yield store
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await store.reader.close()
        await store.writer.close()


def _run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        return await work()

    with VirtualTime() as world:
        return world.run(whole())


def test_a_view_shows_what_was_written_before() -> None:
    """Each acknowledged write is shown at once, and writes elsewhere do not make the view wait for long."""

    async def work() -> None:
        async with _watching() as store:
            for number in range(20):
                written = await store.pause(str(number))
                await store.view.bring_up_to(written)
                assert store.shown == str(number)
            elsewhere = await store.writer.put(KEYS.head, b"{}")
            begun = asyncio.get_running_loop().time()
            await store.view.bring_up_to(elsewhere)
            assert asyncio.get_running_loop().time() - begun < cluster_view._WATCH_WAIT_S, "progress was requested"
            assert store.view.revision >= elsewhere

    _run(work)


def test_a_silent_watch_does_not_hold_up_a_read() -> None:
    """The member of the watch is frozen: the keys are read directly, and its late events change nothing back."""

    async def work() -> None:
        async with _watching() as store:
            written = [await store.pause("first")]
            await store.view.bring_up_to(written[0])
            store.link.hold_streams()
            await store.pause("second")
            third = await store.pause("third")
            begun = asyncio.get_running_loop().time()
            await store.view.bring_up_to(third)
            assert store.shown == "third"
            assert asyncio.get_running_loop().time() - begun >= cluster_view._WATCH_WAIT_S
            shown: list[str | None] = []
            store.view.subscribe(lambda: shown.append(store.shown))
            store.link.release_streams()
            await asyncio.sleep(0.1)
            assert "second" not in shown, "an older event came after the direct read"
            last = await store.pause("last")
            await store.view.bring_up_to(last)
            assert store.shown == "last"

    _run(work)


def test_a_read_fails_if_etcd_does_not_answer() -> None:
    """Neither the watch nor a direct read shows the keys: an error, not an old value."""

    async def work() -> None:
        async with _watching() as store:
            written = await store.pause("new")
            store.link.hold_streams()
            later = await store.pause("newer")
            assert later > written
            store.link.fates = lambda method, request: LOST
            with pytest.raises(Unavailable):
                await store.view.bring_up_to(later)

    _run(work)


def test_a_status_does_not_wake_who_leads_or_campaigns() -> None:
    """Nodes change at nearly every commit. All other keys notify every subscriber, a node's action included."""

    async def work() -> None:
        async with _watching() as store:
            every: list[int] = []
            but_nodes: list[int] = []
            store.view.subscribe(lambda: every.append(store.view.version))
            stop = store.view.subscribe_but_nodes(lambda: but_nodes.append(store.view.version))
            await store.writer.put(KEYS.status_of("n1"), b"{}")
            await eventually(lambda: len(every) == 1, "it is shown")
            assert but_nodes == []
            await store.writer.put(KEYS.acted_of("n1"), b"{}")
            await store.pause("service")
            await eventually(lambda: len(every) == 3, "both are shown")
            assert but_nodes == every[1:]
            stop()
            await store.pause("again")
            await eventually(lambda: len(every) == 4, "it is shown")
            assert len(but_nodes) == 2

    _run(work)
