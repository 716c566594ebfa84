"""A session that restarts its watches while one of them is being opened makes that one list its keys again too."""

from __future__ import annotations

from contextlib import aclosing

from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, Stream
from nodestore.etcd.watch import Changes, Listing, mirror
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.link import Link


class _RestartsWhileOpening(Etcd):
    """Restarts the watches once, when the first stream is open and no watch has been created on it."""

    async def open_stream(self, method: str, *, secondary: bool = False) -> Stream:
        stream = await super().open_stream(method, secondary=secondary)
        if not self.watch_restarts:
            self.restart_watches()
        return stream


def test_a_restart_while_a_watch_is_opened_leads_to_another_listing() -> None:
    """The watch does not follow from the revision of the listing before the restart."""
    server = FakeEtcd()
    server.store.put(pb.PutRequest(key=b"a/1", value=b"x"))

    async def first_items() -> list[Listing | Changes]:
        link = Link(server, latency_s=0.001)
        async with _RestartsWhileOpening(SETTINGS, connect=link.connect) as etcd, aclosing(mirror(etcd, "a/")) as items:
            return [await anext(items), await anext(items)]

    with VirtualTime() as time:
        first, second = time.run(first_items())
    assert isinstance(first, Listing)
    assert second == first
