"""The entries that a replica keeps in memory for streams: all after an index, or none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from masterd.replication.replica import Replica
from masterd.state_machine.state import State
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import CommandRecord, Entry
from tests.support.fakes.etcd import SETTINGS, FakeEtcd


def _entry(first: int, last: int) -> Entry:
    commands = tuple(
        CommandRecord(index=index, id=f"c-{index}", actor="a", time=1.0, name="n", args={})
        for index in range(first, last + 1)
    )
    return Entry(epoch=1, term=1, nonce="n", commands=commands, floor=0)


@asynccontextmanager
async def _replica_at(index: int) -> AsyncIterator[Replica]:
    """A replica that began at this index, as after loading a snapshot."""
    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        replica = Replica(etcd, Keys("c"))
        replica.state = State(index=index)
        yield replica


async def test_entries_are_returned_only_if_memory_holds_all_of_them() -> None:
    """A reader behind the oldest entry in memory must not skip commands: it reads etcd, or gets 410."""
    async with _replica_at(4) as replica:
        one, two = _entry(5, 6), _entry(7, 7)
        await replica.apply(one, 10)
        await replica.apply(two, 10)
        assert replica.recent_after(7) == []
        assert replica.recent_after(6) == [two]
        assert replica.recent_after(5) == [one, two]
        assert replica.recent_after(4) == [one, two]
        assert replica.recent_after(3) is None
        assert replica.recent_after(0) is None


async def test_nothing_is_returned_after_entries_were_skipped() -> None:
    """After a snapshot was loaded, memory lacks the entries up to it, before the next entry and after it."""
    async with _replica_at(4) as replica:
        await replica.apply(_entry(5, 5), 10)
        replica.state = State(index=20)
        assert replica.recent_after(5) is None
        await replica.apply(_entry(21, 21), 10)
        assert replica.recent_after(5) is None
        assert replica.recent_after(20) is not None
