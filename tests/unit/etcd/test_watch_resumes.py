"""A watch that resumes during a catch-up loses nothing, although etcd's header is ahead of the events sent so far."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.etcd.watch import follow
from nodestore.schema.keys import prefix_end
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.link import Link

_KEYS = 2_500  # etcd sends a thousand revisions in a message


def test_a_watch_resumes_behind_the_last_event_that_it_has_received() -> None:
    server = FakeEtcd()
    for number in range(_KEYS):
        server.store.put(pb.PutRequest(key=f"a/{number:05d}".encode(), value=b"x"))

    async def watch_and_break() -> list[str]:
        link, received = Link(server, latency_s=0.001), list[str]()
        async with (
            asyncio.timeout(60.0),
            Etcd(SETTINGS, connect=link.connect) as etcd,
            aclosing(follow(etcd, "a/", end=prefix_end("a/"), revision=1)) as stream,
        ):
            async for changes in stream:
                if not received:  # the other messages of the catch-up are lost
                    link.cut()
                    link.listen()
                received += [event.key for event in changes.events]
                if received and received[-1] == f"a/{_KEYS - 1:05d}":
                    return received
        raise AssertionError("the stream ended")

    with VirtualTime() as time:
        assert time.run(watch_and_break()) == [f"a/{number:05d}" for number in range(_KEYS)]
