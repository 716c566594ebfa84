"""The stores of the conformance tests: a real etcd and the fake, each with a link that can lose and delay messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from nodestore.etcd.session import Etcd, EtcdSettings
from tests.faults.network.proxy import Mode, Proxy
from tests.support.etcd_cluster import EtcdCluster
from tests.support.fakes.etcd import MEMBERS, FakeEtcd
from tests.support.fakes.link import Link
from tests.support.waiting import eventually

ATTEMPT_S = 0.3
PATIENT_S = 20.0
"""Timeout of calls that must be answered, even on a busy machine."""

REQUEST_BYTES_MAX = 8 << 20
TXN_OPS_MAX = 4096
TTL_MIN_S = 1
"""These limits are those of the real member."""

HEDGE_DELAYS_S = EtcdSettings.hedge_delays_s
LATE_HEDGES_S = (2.0, 2.0, 2.0)
"""Delays with which the first copy of a transaction arrives before the second one is sent, on a busy machine too."""


class FaultyLink(Protocol):
    """One session's link to the store, which can lose and delay messages."""

    etcd: Etcd
    """A session over this link. With `repeats_arrive` its second attempt bypasses the link."""

    def set(self, *, up: Mode | None = None, down: Mode | None = None) -> None: ...

    def forward(self) -> None: ...

    async def wait_held(self, *, up: bool = False, down: bool = False) -> None:
        """Wait until something is held on the link."""
        ...

    async def cut(self) -> None: ...

    async def listen(self) -> None: ...


class StoreUnderTest(Protocol):
    """A store that one test uses at a time."""

    name: str

    def session(self) -> Etcd:
        """A new session without a faulty link. The caller closes it."""
        ...

    def link(
        self,
        *,
        repeats_arrive: bool = False,
        call_timeout_s: float = 1.0,
        hedge_delays_s: tuple[float, ...] = HEDGE_DELAYS_S,
    ) -> AbstractAsyncContextManager[FaultyLink]:
        """A faulty link whose session is connected.

        Calls that must be answered on a busy machine need a longer `call_timeout_s`.
        """
        ...


def settings(endpoints: tuple[str, ...], call_timeout_s: float, hedge_delays_s: tuple[float, ...]) -> EtcdSettings:
    return EtcdSettings(
        endpoints=endpoints, call_timeout_s=call_timeout_s, attempt_timeout_s=ATTEMPT_S, hedge_delays_s=hedge_delays_s
    )


class ProxiedLink:
    def __init__(self, proxy: Proxy, etcd: Etcd) -> None:
        self._proxy, self.etcd = proxy, etcd

    def set(self, *, up: Mode | None = None, down: Mode | None = None) -> None:
        self._proxy.set(up=up, down=down)

    def forward(self) -> None:
        self._proxy.forward()

    async def wait_held(self, *, up: bool = False, down: bool = False) -> None:
        await self._proxy.wait_held(up_bytes=int(up), down_bytes=int(down))

    async def cut(self) -> None:
        await self._proxy.cut()

    async def listen(self) -> None:
        await self._proxy.listen()


class Real:
    """A real member of etcd, shared with other tests."""

    name = "etcd"

    def __init__(self, cluster: EtcdCluster) -> None:
        self._endpoint = cluster.endpoints[0]

    def session(self) -> Etcd:
        return Etcd(EtcdSettings(endpoints=(self._endpoint,), call_timeout_s=PATIENT_S))

    @asynccontextmanager
    async def link(
        self,
        *,
        repeats_arrive: bool = False,
        call_timeout_s: float = 1.0,
        hedge_delays_s: tuple[float, ...] = HEDGE_DELAYS_S,
    ) -> AsyncIterator[FaultyLink]:
        async with Proxy(self._endpoint) as proxy:
            endpoints = (proxy.address, self._endpoint) if repeats_arrive else (proxy.address,)
            async with Etcd(settings(endpoints, call_timeout_s, hedge_delays_s)) as etcd:
                await etcd.get("/connected", timeout_s=PATIENT_S)
                yield ProxiedLink(proxy, etcd)


class SimulatedLink:
    def __init__(self, link: Link, etcd: Etcd) -> None:
        self._link, self.etcd = link, etcd

    def set(self, *, up: Mode | None = None, down: Mode | None = None) -> None:
        self._link.set(up=up, down=down)

    def forward(self) -> None:
        self._link.forward()

    async def wait_held(self, *, up: bool = False, down: bool = False) -> None:
        await eventually(lambda: self._link.held_up >= up and self._link.held_down >= down, "something is held")

    async def cut(self) -> None:
        self._link.cut()

    async def listen(self) -> None:
        self._link.listen()


class Fake:
    """The fake etcd, in memory."""

    name = "fake"

    def __init__(self) -> None:
        self._server = FakeEtcd(
            max_txn_ops=TXN_OPS_MAX, request_bytes_max=REQUEST_BYTES_MAX, ttl_min_s=TTL_MIN_S
        )  # fmt: skip

    def session(self) -> Etcd:
        return Etcd(EtcdSettings(endpoints=MEMBERS[:1]), connect=self._server.connect)

    @asynccontextmanager
    async def link(
        self,
        *,
        repeats_arrive: bool = False,
        call_timeout_s: float = 1.0,
        hedge_delays_s: tuple[float, ...] = HEDGE_DELAYS_S,
    ) -> AsyncIterator[FaultyLink]:
        link, first = Link(self._server), MEMBERS[0]
        endpoints = MEMBERS[:2] if repeats_arrive else (first,)
        async with Etcd(
            settings(endpoints, call_timeout_s, hedge_delays_s),
            connect=lambda address: (link if address == first else Link(self._server)).connect(address),
        ) as etcd:
            await etcd.get("/connected", timeout_s=PATIENT_S)
            yield SimulatedLink(link, etcd)
