"""Watches: every event once and in order from the requested revision, or an error if it was compacted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from nodestore.errors import Compacted
from nodestore.etcd import maintenance
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, Stream, op_delete, op_put
from nodestore.etcd.watch import Changes, Event, Listing, ProgressRequests, follow, key_range, mirror, mirror_all
from nodestore.schema.keys import Keys, prefix_end
from tests.conformance.stores import REQUEST_BYTES_MAX, StoreUnderTest
from tests.support.waiting import eventually

_SOON_S = 20.0
_QUIET_S = 0.3


async def follow_events(etcd: Etcd, prefix: str, revision: int, count: int) -> list[Event]:
    """The first `count` events from `revision` on."""
    received: list[Event] = []
    async with asyncio.timeout(_SOON_S), aclosing(follow(etcd, prefix, end=prefix_end(prefix), revision=revision)) as s:
        async for changes in s:
            received += changes.events
            if len(received) >= count:
                break
    return received


@asynccontextmanager
async def open_watch(etcd: Etcd, key: str, start: int, end: bytes = b"", **options: Any) -> AsyncIterator[Stream]:
    """A raw Watch stream with one created watch."""
    create = pb.WatchCreateRequest(key=key.encode(), range_end=end, start_revision=start, **options)
    stream = await etcd.open_stream("Watch/Watch")
    try:
        await stream.send(pb.WatchRequest(create_request=create), _SOON_S)
        reply = await stream.receive(_SOON_S)
        assert reply is not None
        assert reply.created
        assert not reply.events
        yield stream
    finally:
        await stream.close()


async def test_a_listing_and_then_what_happens(store: StoreUnderTest, keys: Keys) -> None:
    """After its listing a mirror returns the puts and deletions under the prefix, with all their fields."""
    async with store.session() as etcd, aclosing(mirror(etcd, keys.state)) as stream:
        await etcd.put(keys.state + "a", b"1")
        listing = await anext(stream)
        assert isinstance(listing, Listing)
        assert [(kv.key, kv.value) for kv in listing.kvs] == [(keys.state + "a", b"1")]
        lease, _ = await etcd.grant(60)
        await etcd.put(keys.status + "a", b"not ours")
        put = await etcd.put(keys.state + "b", b"2", lease=lease)
        again = await etcd.put(keys.state + "b", b"3")
        await etcd.delete(keys.state + "a")
        received: list[Event] = []
        while len(received) < 3:
            item = await anext(stream)
            assert isinstance(item, Changes)
            received += item.events
        assert received == [
            Event(keys.state + "b", b"2", put, put, lease),
            Event(keys.state + "b", b"3", again, put, 0),
            Event(keys.state + "a", None, again + 1, 0, 0),
        ]
        await etcd.revoke(lease)


async def test_one_key(store: StoreUnderTest, keys: Keys) -> None:
    """A mirror of one key does not include keys that begin with it."""
    async with store.session() as etcd, aclosing(mirror(etcd, keys.leader, prefix=False)) as stream:
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


@pytest.mark.parametrize("skip", [0, 1, 4, 9, 10])
async def test_following_on_from_any_event(store: StoreUnderTest, keys: Keys, skip: int) -> None:
    """Following from an event's revision + 1 returns exactly the events after it."""
    async with store.session() as etcd:
        before = (await etcd.range(keys.state)).revision
        for number in range(10):
            if number == 5:
                await etcd.delete(keys.state + "4")
            else:
                await etcd.put(f"{keys.state}{number}", str(number).encode())
                await etcd.put(f"{keys.status}{number}", b"between")
        all_events = await follow_events(etcd, keys.state, before + 1, 10)
        assert [event.value for event in all_events] == [
            None if number == 5 else str(number).encode() for number in range(10)
        ]
        after = all_events[skip - 1].mod_revision if skip else before
        await etcd.put(keys.state + "last", b"last")
        rest = await follow_events(etcd, keys.state, after + 1, 11 - skip)
        assert rest[:-1] == all_events[skip:]
        assert rest[-1].value == b"last"


async def test_a_transaction_is_one_batch(store: StoreUnderTest, keys: Keys) -> None:
    """Events of one revision arrive together, in the order of the transaction."""
    end = prefix_end(keys.state)
    async with store.session() as etcd:
        before = (await etcd.range(keys.state)).revision
        async with aclosing(follow(etcd, keys.state, end=end, revision=before + 1)) as stream:
            for part in (
                [op_put(keys.state + "b", b""), op_put(keys.state + "a", b"")],
                [op_delete(keys.state, end=end), op_put(keys.status + "x", b"")],
            ):
                revision = (await etcd.txn([], part)).revision
                while not (changes := await anext(stream)).events:
                    pass
                order = ["b", "a"] if revision == before + 1 else ["a", "b"]
                assert [event.key.removeprefix(keys.state) for event in changes.events] == order
                assert {event.mod_revision for event in changes.events} == {changes.revision} == {revision}


async def test_a_quiet_watch_shows_that_it_lives(store: StoreUnderTest, keys: Keys) -> None:
    """A watch reports progress even if nothing is written to the store."""
    # That is why a watch begins one revision early, and skips the events of that revision.
    async with store.session() as etcd:
        await etcd.put(keys.state + "a", b"x")
        async with aclosing(mirror(etcd, keys.state, progress_s=0.05, silence_s=1.0)) as stream:
            listing = await anext(stream)
            for _ in range(3):
                quiet = await anext(stream)
                assert isinstance(quiet, Changes)
                assert quiet == Changes(listing.revision, (), True)


async def test_no_sign_of_life_of_a_watch_that_begins_in_the_future(store: StoreUnderTest, keys: Keys) -> None:
    """A watch of a future revision reports no progress before the store reaches it, and no earlier events."""
    async with store.session() as etcd:
        revision = await etcd.put(keys.state + "a", b"x")
        ask = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
        async with open_watch(etcd, keys.state, revision + 2, prefix_end(keys.state)) as stream:
            await stream.send(ask, _SOON_S)
            assert await stream.receive(_QUIET_S) is None
            await etcd.put(keys.state + "b", b"too early")
            await etcd.put(keys.status + "c", b"elsewhere")
            await stream.send(ask, _SOON_S)
            reply = await stream.receive(_SOON_S)
            assert reply is not None
            assert (reply.header.revision, len(reply.events)) == (revision + 2, 0)
            await etcd.put(keys.state + "d", b"in time")
            reply = await stream.receive(_SOON_S)
            assert reply is not None
            assert [event.kv.value for event in reply.events] == [b"in time"]


async def test_the_header_runs_ahead_in_a_catch_up(store: StoreUnderTest, keys: Keys) -> None:
    """A response with old events has the store's present revision in its header, so it is no position to resume at."""
    async with store.session() as etcd:
        first = await etcd.put(keys.state + "a", b"1")
        last = await etcd.put(keys.status + "b", b"2")
        async with open_watch(etcd, keys.state, first, prefix_end(keys.state)) as stream:
            reply = await stream.receive(_SOON_S)
            assert reply is not None
            assert [event.kv.mod_revision for event in reply.events] == [first]
            assert reply.header.revision == last


async def test_what_is_compacted_cannot_be_followed(store: StoreUnderTest, keys: Keys) -> None:
    """A watch of a compacted revision raises Compacted with the oldest revision, from which a watch is possible."""
    async with store.session() as etcd:
        first = await etcd.put(keys.state + "a", b"1")
        await etcd.put(keys.state + "b", b"2")
        gone = (await etcd.txn([], [op_delete(keys.state + "a"), op_put(keys.state + "c", b"3")])).revision
        await maintenance.compact(etcd, gone)
        with pytest.raises(Compacted) as caught:
            await follow_events(etcd, keys.state, first, 1)
        assert caught.value.revision == gone
        await etcd.put(keys.state + "d", b"4")
        later = await follow_events(etcd, keys.state, gone + 1, 1)
        assert [event.value for event in later] == [b"4"]
        async with open_watch(etcd, keys.state, gone, prefix_end(keys.state)) as stream:
            received: list[bytes] = []
            while len(received) < 3:
                reply = await stream.receive(_SOON_S)
                assert reply is not None
                received += [event.kv.value for event in reply.events]
            assert received == [b"", b"3", b"4"]


async def test_compaction_under_a_cut_off_watch_is_a_new_listing(store: StoreUnderTest, keys: Keys) -> None:
    """If missed events were compacted, a mirror returns a new listing and continues from it."""
    async with store.session() as writer, store.link() as link, aclosing(mirror(link.etcd, keys.state)) as stream:
        await writer.put(keys.state + "old", b"x")
        assert isinstance(await anext(stream), Listing)
        await writer.put(keys.state + "old", b"y")
        assert isinstance(await anext(stream), Changes)
        await link.cut()
        await writer.delete(keys.state + "old")
        last = await writer.put(keys.state + "new", b"z")
        await maintenance.compact(writer, last)
        await link.listen()
        async with asyncio.timeout(_SOON_S):
            listing = await anext(stream)
        assert isinstance(listing, Listing)
        assert [(kv.key, kv.value) for kv in listing.kvs] == [(keys.state + "new", b"z")]
        await writer.put(keys.state + "more", b"!")
        while not (changes := await anext(stream)) or not isinstance(changes, Changes) or not changes.events:
            pass
        assert [event.value for event in changes.events] == [b"!"]


async def test_a_watch_goes_on_behind_what_it_has_seen(store: StoreUnderTest, keys: Keys) -> None:
    """After each cut a mirror resumes without a new listing, and no event is lost, repeated or out of order."""
    async with store.session() as writer, store.link() as link:
        received: list[Event] = []
        listings = 0

        async def watch() -> None:
            nonlocal listings
            async with aclosing(mirror(link.etcd, keys.state)) as stream:
                async for item in stream:
                    if isinstance(item, Changes):
                        received.extend(item.events)
                    else:
                        listings += 1

        task = asyncio.create_task(watch())
        await eventually(lambda: listings == 1, "a listing")
        written = []
        for round_ in range(4):
            written.extend([await writer.put(f"{keys.state}{n}", str(round_).encode()) for n in range(5)])
            await eventually(lambda: len(received) >= len(written) - 5, "the events before the cut")
            await link.cut()
            written.append(await writer.put(f"{keys.state}cut", b"x"))
            await link.listen()
        await eventually(lambda: len(received) >= len(written))
        task.cancel()
        await asyncio.wait((task,))
        assert [event.mod_revision for event in received] == written
        assert listings == 1


async def test_a_batch_larger_than_a_message_comes_in_one_piece(store: StoreUnderTest, keys: Keys) -> None:
    """A batch that the store sends in fragments is returned whole and in order."""
    async with store.session() as etcd:
        start = (await etcd.range(keys.state)).revision + 1
        size = REQUEST_BYTES_MAX // 4
        for number in range(9):
            await etcd.put(f"{keys.state}{number}", bytes([number]) * size)
        async with aclosing(follow(etcd, keys.state, end=prefix_end(keys.state), revision=start)) as stream:
            changes = await anext(stream)
            assert [event.value[0] for event in changes.events if event.value] == list(range(9))
        async with open_watch(etcd, keys.state, start, prefix_end(keys.state), fragment=True) as bare:
            sizes: list[int] = []
            more = True
            while more:
                reply = await bare.receive(_SOON_S)
                assert reply is not None
                sizes.append(len(reply.events))
                more = reply.fragment
            assert len(sizes) > 1
            assert sum(sizes) == 9


async def test_a_watch_that_is_cancelled_says_so_and_is_silent(store: StoreUnderTest, keys: Keys) -> None:
    """A watch that its owner cancels confirms it, and sends nothing afterwards."""
    async with store.session() as etcd, open_watch(etcd, keys.state, 0, prefix_end(keys.state)) as stream:
        await etcd.put(keys.state + "a", b"1")
        reply = await stream.receive(_SOON_S)
        assert reply is not None
        assert len(reply.events) == 1
        await stream.send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=reply.watch_id)), _SOON_S)
        reply = await stream.receive(_SOON_S)
        assert reply is not None
        assert (reply.canceled, reply.compact_revision) == (True, 0)
        await etcd.put(keys.state + "a", b"2")
        assert await stream.receive(_QUIET_S) is None


async def test_expired_keys_are_seen_to_go(store: StoreUnderTest, keys: Keys) -> None:
    """The expiry of a lease arrives as one batch of deletions of all its keys."""
    async with store.session() as etcd:
        lease, _ = await etcd.grant(4)
        for name in "ab":
            await etcd.put(keys.state + name, b"x", lease=lease)
        before = await etcd.put(keys.state + "c", b"stays")
        gone = await follow_events(etcd, keys.state, before + 1, 2)
        assert [(event.key, event.value) for event in gone] == [(keys.state + name, None) for name in "ab"]
        assert {event.mod_revision for event in gone} == {before + 1}


async def test_closing_the_session_under_a_watch_ends_it_with_an_error(store: StoreUnderTest, keys: Keys) -> None:
    """Closing the session ends a watch with an error that is not CancelledError."""
    etcd = store.session()
    stream = mirror(etcd, keys.state)
    await anext(stream)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    await etcd.close()
    await asyncio.wait((waiting,), timeout=_SOON_S)
    assert waiting.done()
    assert not waiting.cancelled()
    assert "closed" in str(waiting.exception())


async def test_several_intervals_by_one_stream(store: StoreUnderTest, keys: Keys) -> None:
    """One stream returns a listing of each interval, then its changes, each with the interval's position."""
    async with store.session() as etcd:
        await etcd.put(keys.state + "a", b"1")
        intervals = [key_range(keys.leader, prefix=False), key_range(keys.state), key_range(keys.status)]
        async with aclosing(mirror_all(etcd, intervals, progress_s=0.05, silence_s=1.0)) as stream:
            listings = [await anext(stream) for _ in intervals]
            assert [(position, len(item.kvs)) for position, item in listings if isinstance(item, Listing)] == [
                (0, 0), (1, 1), (2, 0),
            ]  # fmt: skip
            next_item = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(_QUIET_S)
            assert not next_item.done(), "progress is not passed on to the reader"
            await etcd.put(keys.leader + "-not", b"x")
            for position, key in ((2, keys.status + "s"), (0, keys.leader), (1, keys.state + "b"), (2, keys.status)):
                await etcd.put(key, b"y")
                at, item = await next_item
                assert isinstance(item, Changes)
                assert (at, [event.key for event in item.events]) == (position, [key])
                next_item = asyncio.ensure_future(anext(stream))
            next_item.cancel()
            await asyncio.wait((next_item,))


async def test_a_watch_of_deletions_alone(store: StoreUnderTest, keys: Keys) -> None:
    """etcd delivers no event of a put, and yet reports progress up to it. The events of other intervals arrive."""
    async with store.session() as etcd:
        await etcd.put(keys.state + "a", b"1")
        intervals, progress = [key_range(keys.state, deletions_only=True), key_range(keys.status)], ProgressRequests()
        async with aclosing(mirror_all(etcd, intervals, progress_s=0.05, silence_s=1.0, progress=progress)) as stream:
            listings = [(await anext(stream))[1] for _ in intervals]
            assert [len(item.kvs) for item in listings if isinstance(item, Listing)] == [1, 0]
            written = await etcd.put(keys.state + "a", b"2")
            while True:
                _, item = await anext(stream)
                assert isinstance(item, Changes)
                assert item.events == ()
                if item.whole_stream and item.revision >= written:
                    break
            await etcd.put(keys.status + "s", b"y")
            await etcd.delete(keys.state + "a")
            found = [(at, item) for at, item in [await anext(stream) for _ in range(20)] if isinstance(item, Changes)]
            events = [(at, event.key, event.value) for at, item in found for event in item.events]
            assert events == [(1, keys.status + "s", b"y"), (0, keys.state + "a", None)]


async def test_several_intervals_go_on_behind_what_was_seen_of_each(store: StoreUnderTest, keys: Keys) -> None:
    """After a cut each interval resumes without a listing, and its missed events arrive once and in order."""
    async with store.session() as writer, store.link() as link:
        received: dict[int, list[int]] = {0: [], 1: []}
        listings = 0

        async def watch() -> None:
            nonlocal listings
            async with aclosing(mirror_all(link.etcd, [key_range(keys.state), key_range(keys.status)])) as stream:
                async for position, item in stream:
                    if isinstance(item, Changes):
                        received[position] += [event.mod_revision for event in item.events]
                    else:
                        listings += 1

        task = asyncio.create_task(watch())
        await eventually(lambda: listings == 2, "both listings")
        written: dict[int, list[int]] = {0: [], 1: []}
        for _ in range(3):
            await link.cut()
            for position, prefix in ((0, keys.state), (1, keys.status), (0, keys.state)):
                written[position].append(await writer.put(prefix + "x", b"y"))
            await link.listen()
            await eventually(lambda: received == written, "all events of both intervals")
        task.cancel()
        await asyncio.wait((task,))
        assert listings == 2


async def test_a_compaction_under_one_of_several_is_a_new_listing_of_all(store: StoreUnderTest, keys: Keys) -> None:
    """If missed events of one interval were compacted, all intervals are listed again."""
    async with store.session() as writer, store.link() as link:
        intervals = [key_range(keys.state), key_range(keys.status)]
        async with aclosing(mirror_all(link.etcd, intervals)) as stream:
            for _ in intervals:
                assert isinstance((await anext(stream))[1], Listing)
            await writer.put(keys.status + "live", b"x")
            assert (await anext(stream))[0] == 1
            await link.cut()
            await maintenance.compact(writer, await writer.put(keys.state + "new", b"z"))
            await link.listen()
            again: list[tuple[int, list[str]]] = []
            async with asyncio.timeout(_SOON_S):
                while len(again) < len(intervals):
                    position, item = await anext(stream)
                    if isinstance(item, Listing):
                        again.append((position, [kv.key for kv in item.kvs]))
            assert again == [(0, [keys.state + "new"]), (1, [keys.status + "live"])]
