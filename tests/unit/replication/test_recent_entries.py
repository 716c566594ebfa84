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


async def _apply(replica: Replica, entry: Entry) -> None:
    await replica.apply(entry, entry.encode())


def _recent(replica: Replica, index: int, entries_max: int = 10) -> list[tuple[int, int]] | None:
    found = replica.recent_after(index, entries_max)
    return None if found is None else [(entry.first, entry.last) for entry in found]


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
        await _apply(replica, one)
        await _apply(replica, two)
        assert _recent(replica, 7) == []
        assert _recent(replica, 6) == [(7, 7)]
        assert _recent(replica, 5) == [(5, 6), (7, 7)]
        assert _recent(replica, 4) == [(5, 6), (7, 7)]
        assert _recent(replica, 4, 1) == [(5, 6)]
        assert replica.recent_after(3) is None
        assert replica.recent_after(0) is None


async def test_nothing_is_returned_after_entries_were_skipped() -> None:
    """After a snapshot was loaded, memory lacks the entries up to it, before the next entry and after it."""
    async with _replica_at(4) as replica:
        await _apply(replica, _entry(5, 5))
        replica.state = State(index=20)
        assert replica.recent_after(5) is None
        await _apply(replica, _entry(21, 21))
        assert replica.recent_after(5) is None
        assert replica.recent_after(20) is not None


async def test_what_is_kept_is_bounded() -> None:
    """By number and by bytes: a follower that is further behind reads etcd."""
    async with _replica_at(0) as replica:
        for index in range(1, 600):
            await _apply(replica, _entry(index, index))
        assert (replica.recent_after(86), _recent(replica, 87, 1)) == (None, [(88, 88)])
        await replica.apply(_entry(600, 600), b"x" * (2 << 20))
        assert replica.recent_after(598) is None
