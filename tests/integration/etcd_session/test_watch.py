"""Watches lose nothing, double nothing and keep the order, whatever happens to the member that feeds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from nodestore.errors import Compacted, OutcomeUnknown, Unavailable
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, EtcdSettings, op_delete, op_put
from nodestore.etcd.watch import Changes, Event, Listing, follow, mirror
from nodestore.schema.keys import Keys, prefix_end
from tests.faults.network.proxy import Proxy
from tests.support.etcd_cluster import EtcdCluster, Member
from tests.support.waiting import eventually
from tests.support.watching import observer


def session(*endpoints: str) -> Etcd:
    return Etcd(EtcdSettings(endpoints=endpoints, call_timeout_s=10.0, attempt_timeout_s=0.5))


def starting_at(cluster: EtcdCluster, first: Member) -> Etcd:
    return session(first.endpoint, *(member.endpoint for member in cluster.members if member is not first))


class Writer:
    """Writes numbered values and keeps the record that the watch is compared with."""

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self._etcd, self._prefix = etcd, prefix
        self.sure: dict[int, int] = {}  # number to revision
        self.number = 0

    async def write(self, count: int) -> None:
        """`count` puts, in transactions of up to 100; those whose outcome is unknown are left out of the record."""
        left = count
        while left:
            size = min(left, 100)
            numbers = range(self.number, self.number + size)
            self.number += size
            left -= size
            ops = [op_put(f"{self._prefix}{number % 512:03}/{number}", str(number).encode()) for number in numbers]
            try:
                revision = (await self._etcd.txn([], ops, timeout_s=0.3)).revision
            except (OutcomeUnknown, Unavailable):
                continue
            self.sure |= dict.fromkeys(numbers, revision)

    async def truth(self) -> dict[int, int]:
        """Number to revision of all that landed, unknown ones included, as the store itself has it."""
        found = await self._etcd.range(self._prefix, timeout_s=10.0)
        return {int(kv.value): kv.mod_revision for kv in found.kvs}


def check(events: list[Event], truth: dict[int, int], sure: dict[int, int]) -> None:
    """Every write that landed came exactly once, in the order of its revision."""
    seen = [(int(event.value or b"-1"), event.mod_revision) for event in events]
    assert len(seen) == len(dict(seen)), "doubled"
    assert dict(seen) == truth
    assert sure.items() <= truth.items()
    revisions = [revision for _, revision in seen]
    assert revisions == sorted(revisions), "out of order"


async def test_listing_then_changes(etcd_one: EtcdCluster, keys: Keys) -> None:
    """What was there comes as a listing, what happens as events with their revisions; neighbours stay unseen."""
    async with session(*etcd_one.endpoints) as etcd:
        await etcd.put(keys.state + "a", b"1")
        async with observer(etcd, keys.state) as seen:
            assert [kv.key for kv in seen.listings[0].kvs] == [keys.state + "a"]
            await etcd.put(keys.status + "a", b"not ours")
            lease, _ = await etcd.grant(60)
            put = await etcd.put(keys.state + "b", b"2", lease=lease)
            await etcd.delete(keys.state + "a")
            await eventually(lambda: len(seen.events) == 2)
            first, second = seen.events
            assert (first.key, first.value, first.mod_revision) == (keys.state + "b", b"2", put)
            assert (first.create_revision, first.lease) == (put, lease)
            assert (second.key, second.value, second.mod_revision) == (keys.state + "a", None, put + 1)
            assert len(seen.listings) == 1


async def test_one_key(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Without `prefix` a key that begins with the watched one is not part of it."""
    async with (
        session(*etcd_one.endpoints) as etcd,
        aclosing(mirror(etcd, keys.leader, prefix=False)) as stream,
    ):
        await etcd.put(keys.leader + "2", b"x")
        listing = await anext(stream)
        assert isinstance(listing, Listing)
        assert listing.kvs == ()
        await etcd.put(keys.leader + "2", b"y")
        revision = await etcd.put(keys.leader, b"z")
        changes = await anext(stream)
        assert isinstance(changes, Changes)
        assert [(event.value, event.mod_revision) for event in changes.events] == [(b"z", revision)]
        assert changes.revision == revision


async def test_one_transaction_is_one_batch(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Events of one revision are never torn apart, so resuming behind the last one loses none."""
    async with session(*etcd_one.endpoints) as etcd:
        listing = await etcd.range(keys.state)
        await etcd.txn([], [op_put(f"{keys.state}{i}", b"x") for i in range(3000)])
        await etcd.txn([], [op_delete(keys.state, end=prefix_end(keys.state))])
        async with aclosing(
            follow(etcd, keys.state, end=prefix_end(keys.state), revision=listing.revision + 1)
        ) as stream:
            seen: list[Event] = []
            async for changes in stream:
                seen.extend(changes.events)
                for event in changes.events:
                    assert event.mod_revision <= changes.revision
                if len(seen) >= 6000:
                    break
                assert len(seen) in (0, 3000)


async def test_a_quiet_watch_says_that_it_lives(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Without events there are empty changes, whose revision shows how current the watch is."""
    async with session(*etcd_one.endpoints) as etcd, observer(etcd, keys.state) as seen:
        await eventually(lambda: seen.progress >= 2)
        assert seen.events == []


async def test_a_batch_larger_than_a_message_comes_in_one_piece(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The server cuts what exceeds its request limit into fragments; the reader sees it whole and in order."""
    async with session(*etcd_one.endpoints) as etcd:
        start = (await etcd.range(keys.state)).revision + 1
        for i in range(24):
            await etcd.put(f"{keys.state}{i}", bytes([i]) * 500_000)
        async with aclosing(follow(etcd, keys.state, end=prefix_end(keys.state), revision=start)) as stream:
            changes = await anext(stream)
            assert [event.value[0] for event in changes.events if event.value] == list(range(24))


async def test_a_reader_that_stops_reading_stops_nobody_else(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A watch with 20 MB that its owner does not take leaves calls on the same connection alone, and stays complete."""
    async with session(*etcd_one.endpoints) as etcd, aclosing(mirror(etcd, keys.state)) as stream:
        assert isinstance(await anext(stream), Listing)
        first = asyncio.create_task(anext(stream))
        for i in range(40):
            await etcd.put(f"{keys.state}{i}", bytes(500_000))
        seen = list((await first).events)  # type: ignore[union-attr]
        while len(seen) < 40:
            item = await anext(stream)
            assert isinstance(item, Changes)
            seen.extend(item.events)
        assert [event.key for event in seen] == [f"{keys.state}{i}" for i in range(40)]


async def test_compaction_under_a_cut_off_watch_is_a_new_listing(etcd_one: EtcdCluster, keys: Keys) -> None:
    """After a compaction of missed changes the watch delivers a complete new listing, and then further changes."""
    direct = etcd_one.endpoints[0]
    async with (
        Proxy(direct) as proxy,
        session(direct) as writer,
        session(proxy.address) as etcd,
        observer(etcd, keys.state) as seen,
    ):
        await writer.put(keys.state + "old", b"x")
        await eventually(lambda: len(seen.events) == 1)
        await proxy.cut()
        await writer.delete(keys.state + "old")
        last = await writer.put(keys.state + "new", b"y")
        await maintenance.compact(writer, last)
        await proxy.listen()
        await eventually(lambda: len(seen.listings) == 2)
        assert seen.state == {keys.state + "new": b"y"}
        await writer.put(keys.state + "more", b"z")
        await eventually(lambda: seen.state == {keys.state + "new": b"y", keys.state + "more": b"z"})
        assert len(seen.events) == 2


async def test_follow_says_that_it_is_compacted(etcd_one: EtcdCluster, keys: Keys) -> None:
    """`follow` from a compacted revision raises an error with the oldest revision."""
    async with session(*etcd_one.endpoints) as etcd:
        first = await etcd.put(keys.head, b"1")
        last = await etcd.put(keys.head, b"2")
        await maintenance.compact(etcd, last)
        with pytest.raises(Compacted) as caught:
            await anext(follow(etcd, keys.head, end=prefix_end(keys.head), revision=first))
        assert caught.value.revision == last


async def test_silence_is_a_fault(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A host that vanishes without a word is left after the silence limit, and nothing is missing."""
    direct = etcd_one.endpoints[0]
    async with (
        Proxy(direct) as proxy,
        session(direct) as writer,
        session(proxy.address, direct) as etcd,
        observer(etcd, keys.state) as seen,
    ):
        await writer.put(keys.state + "a", b"1")
        await eventually(lambda: len(seen.events) == 1)
        proxy.stall()
        await writer.put(keys.state + "b", b"2")
        await eventually(lambda: len(seen.events) == 2)
        assert etcd.endpoint == direct
        assert len(seen.listings) == 1


async def test_a_pause_of_the_reader_is_no_silence(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A process that was itself away for longer than the limit keeps its healthy stream."""
    async with (
        Proxy(etcd_one.endpoints[0]) as proxy,
        session(proxy.address) as etcd,
        aclosing(mirror(etcd, keys.state, progress_s=0.2, silence_s=0.4)) as stream,
    ):
        assert isinstance(await anext(stream), Listing)
        assert isinstance(await anext(stream), Changes)
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        busy_until = loop.time() + 0.6
        while loop.time() < busy_until:  # the loop is blocked: that is the pause
            pass
        assert isinstance(await waiting, Changes)
        assert proxy.accepted == 1
        assert etcd.endpoint == proxy.address


async def test_a_watch_that_is_dropped_leaves_nothing(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Ended by its owner at any point (in the listing, while it waits, by cancellation), it leaves no task."""
    async with session(*etcd_one.endpoints) as etcd:
        async with aclosing(mirror(etcd, keys.state)) as stream:
            await anext(stream)
        async with aclosing(mirror(etcd, keys.state, progress_s=0.05)) as stream:
            await anext(stream)
            await anext(stream)
        for turns in range(12):
            async with aclosing(mirror(etcd, keys.state)) as stream:
                reading = asyncio.create_task(_read(stream))
                for _ in range(turns * 3):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait((reading,))
                assert reading.cancelled()


async def _read(stream: AsyncIterator[Listing | Changes]) -> None:
    async for _ in stream:
        pass


async def test_closing_the_session_under_a_watch_ends_it_with_an_error(etcd_one: EtcdCluster, keys: Keys) -> None:
    """It raises an error at once. CancelledError would mean that its owner had cancelled it."""
    etcd = session(*etcd_one.endpoints)
    stream = mirror(etcd, keys.state)
    await anext(stream)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    await etcd.close()
    await asyncio.wait((waiting,), timeout=5.0)
    assert waiting.done()
    assert not waiting.cancelled()
    assert "closed" in str(waiting.exception())


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_the_member_that_feeds_it_dies(broken_three: EtcdCluster, keys: Keys, fault: str) -> None:
    """The watch continues at another member after the last event."""
    victim = (await broken_three.leader()) if fault == "kill" else broken_three.members[0]
    others = [member.endpoint for member in broken_three.members if member is not victim]
    async with (
        session(*others) as writing,
        starting_at(broken_three, victim) as etcd,
        observer(etcd, keys.state) as seen,
    ):
        writer = Writer(writing, keys.state)
        while len(writer.sure) < 300:
            await writer.write(100)
        await eventually(lambda: len(seen.events) >= 300)
        victim.kill() if fault == "kill" else victim.pause()
        while len(writer.sure) < 600:
            await writer.write(100)
        truth = await writer.truth()
        await eventually(lambda: len(seen.events) >= len(truth))
        check(seen.events, truth, writer.sure)
        assert etcd.endpoint != victim.endpoint


async def test_outage_of_all_and_return(broken_three: EtcdCluster, keys: Keys) -> None:
    """Writes before, around and after: none lost, none doubled, in order, without a new listing."""
    async with (
        session(*broken_three.endpoints) as writing,
        session(*broken_three.endpoints) as etcd,
        observer(etcd, keys.state) as seen,
    ):
        writer = Writer(writing, keys.state)
        await writer.write(500)
        under_way = asyncio.create_task(writer.write(1500))
        await eventually(lambda: len(seen.events) >= 800)
        for member in broken_three.members:
            member.kill()
        await under_way
        broken_three.mend()
        await broken_three.wait_healthy()
        await writer.write(500)
        truth = await writer.truth()
        await eventually(lambda: len(seen.events) >= len(truth))
        check(seen.events, truth, writer.sure)
        assert len(seen.listings) == 1


async def test_kills_during_catch_up(broken_three: EtcdCluster, keys: Keys) -> None:
    """Several thousand old events, and the member that sends them is killed again and again in their midst."""
    async with session(*broken_three.endpoints) as writing, session(*broken_three.endpoints) as etcd:
        start = (await writing.range(keys.state)).revision + 1
        for _ in range(100):  # revisions, not events, are what a catch-up is cut into
            await asyncio.gather(*(writing.put(f"{keys.state}{i}", b"x") for i in range(50)))
        truth = (await writing.range(keys.state)).revision
        seen: list[Event] = []
        kills = 0
        async with aclosing(follow(etcd, keys.state, end=prefix_end(keys.state), revision=start)) as stream:
            async for changes in stream:
                seen.extend(changes.events)
                if len(seen) >= 5000:
                    break
                if kills < 3:
                    kills += 1
                    broken_three.member_at(etcd.endpoint).restart()
        assert kills == 3
        assert [event.mod_revision for event in seen] == list(range(start, truth + 1))
