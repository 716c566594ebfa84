"""A store in memory whose writing transactions meet faults: what is written by compare-and-swap must settle them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, EtcdSettings
from tests.support.fakes.etcd import MEMBERS, FakeEtcd
from tests.support.fakes.link import FINE, Fate, Link

Interference = Callable[[], None]


@dataclass
class UnsureStore:
    """A store in memory, and a session with it whose writing transactions meet `fates`, one after the other."""

    server: FakeEtcd = field(default_factory=FakeEtcd)
    fates: list[Fate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.link = Link(self.server)
        self.link.fates = lambda method, _: self.fates.pop(0) if method == "KV/Txn" and self.fates else FINE

    @asynccontextmanager
    async def sessions(self) -> AsyncIterator[tuple[Etcd, Etcd]]:
        """A session through the link, and one on which nothing goes wrong."""
        one = EtcdSettings(endpoints=MEMBERS[:1])
        async with (
            Etcd(one, connect=self.link.connect) as etcd,
            Etcd(one, connect=self.server.connect) as witness,
        ):
            yield etcd, witness

    def broken(self, *, arrives: bool, meanwhile: Interference | None = None) -> Fate:
        """The connection breaks during the call, after or before its effect. `meanwhile` runs at that moment."""

        def cut() -> None:
            if meanwhile is not None:
                meanwhile()
            self.link.cut()
            self.link.listen()

        return Fate(arrives=arrives, replied=False, then=cut)

    def writes(self, key: str, value: bytes) -> Interference:
        """Return a function that writes this key, as another client."""

        def put() -> None:
            self.server.handle("KV/Put", pb.PutRequest(key=key.encode(), value=value))

        return put

    def deletes(self, key: str) -> Interference:
        """Return a function that deletes this key, as another client."""

        def delete() -> None:
            self.server.handle("KV/DeleteRange", pb.DeleteRangeRequest(key=key.encode()))

        return delete

    def kvs(self, key: str) -> list[Any]:
        """The key as the store holds it; empty if it is absent."""
        return list(self.server.handle("KV/Range", pb.RangeRequest(key=key.encode())).kvs)

    def value(self, key: str) -> bytes:
        """What the store holds under this key."""
        return bytes(self.kvs(key)[0].value)
