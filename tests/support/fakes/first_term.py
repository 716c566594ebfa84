"""A leader's parts on a fake store whose keys change just before one of their transactions arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from masterd.replication.replica import Replica
from nodestore.cluster.election import Fence, ensure_epoch
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Term
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.link import FINE, Fate, Link

KEYS = Keys("c")


@dataclass
class Term1:
    """The first term of a store: its fence, a replica, and the link to the store.

    before: called with each transaction before it arrives; returns its fate.
    """

    server: FakeEtcd
    etcd: Etcd
    fence: Fence
    replica: Replica
    before: Callable[[Any], Fate] = lambda request: FINE
    txns: list[Any] = field(default_factory=list)
    """The transactions that were sent."""

    def fate(self, method: str, request: Any) -> Fate:
        if method != "KV/Txn":
            return FINE
        self.txns.append(request)
        return self.before(request)

    def put(self, key: str, value: bytes = b"{}", lease: int = 0) -> None:
        """Write a key as another program."""
        self.server.store.put(pb.PutRequest(key=key.encode(), value=value, lease=lease))

    def delete(self, prefix: str) -> None:
        self.server.store.delete(pb.DeleteRangeRequest(key=prefix.encode(), range_end=prefix_end(prefix)))

    def keys(self, prefix: str) -> list[str]:
        """The keys below `prefix`, without it."""
        found = self.server.store.range(pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix)))
        return [kv.key.decode().removeprefix(prefix) for kv in found.kvs]

    def value(self, key: str) -> bytes | None:
        found = self.server.store.range(pb.RangeRequest(key=key.encode())).kvs
        return found[0].value if found else None

    def end(self) -> None:
        """Another masterd takes over."""
        self.put(KEYS.leader)

    def at(self, key: str, then: Callable[[], None], fate: Fate = FINE) -> None:
        """Call `then` just before the first transaction arrives that puts or deletes from this key on."""

        def before(request: Any) -> Fate:
            if any(key.encode() in (op.request_put.key, op.request_delete_range.key) for op in request.success):
                self.before = lambda request: FINE
                then()
                return fate
            return FINE

        self.before = before


@asynccontextmanager
async def first_term() -> AsyncIterator[Term1]:
    server = FakeEtcd()
    link = Link(server)
    async with Etcd(SETTINGS, connect=link.connect) as etcd:
        epoch = await ensure_epoch(etcd, KEYS)
        server.store.put(pb.PutRequest(key=KEYS.leader.encode(), value=b"{}"))
        fence = Fence(Term(epoch.epoch, server.store.revision), epoch.revision, "nonce")
        term = Term1(server, etcd, fence, Replica(etcd, KEYS))
        link.fates = term.fate
        yield term
