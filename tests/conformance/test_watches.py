"""Watches: everything once and in order, from where it was asked for, or a clear word that it is gone."""

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
from nodestore.etcd.watch import Changes, Event, Listing, follow, key_range, mirror, mirror_all
from nodestore.schema.keys import Keys, prefix_end
from tests.conformance.ground import REQUEST_BYTES_MAX, Ground
from tests.support.waiting import eventually

_SOON_S = 20.0
_QUIET_S = 0.3


async def followed(etcd: Etcd, prefix: str, revision: int, count: int) -> list[Event]:
    """The first `count` events from `revision` on."""
    seen: list[Event] = []
    async with asyncio.timeout(_SOON_S), aclosing(follow(etcd, prefix, end=prefix_end(prefix), revision=revision)) as s:
        async for changes in s:
            seen += changes.events
            if len(seen) >= count:
                break
    return seen


@asynccontextmanager
async def watching(etcd: Etcd, key: str, start: int, end: bytes = b"", **options: Any) -> AsyncIterator[Stream]:
    """A bare Watch call, whose watch has been created."""
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


async def test_a_listing_and_then_what_happens(ground: Ground, keys: Keys) -> None:
    """Puts with value, lease and both revisions, deletions without; the neighbours of the prefix stay unseen."""
    async with ground.session() as etcd, aclosing(mirror(etcd, keys.state)) as stream:
        await etcd.put(keys.state + "a", b"1")
        listing = await anext(stream)
        assert isinstance(listing, Listing)
        assert [(kv.key, kv.value) for kv in listing.kvs] == [(keys.state + "a", b"1")]
        lease, _ = await etcd.grant(60)
        await etcd.put(keys.status + "a", b"not ours")
        put = await etcd.put(keys.state + "b", b"2", lease=lease)
        again = await etcd.put(keys.state + "b", b"3")
        await etcd.delete(keys.state + "a")
        seen: list[Event] = []
        while len(seen) < 3:
            item = await anext(stream)
            assert isinstance(item, Changes)
            seen += item.events
        assert seen == [
            Event(keys.state + "b", b"2", put, put, lease),
            Event(keys.state + "b", b"3", again, put, 0),
            Event(keys.state + "a", None, again + 1, 0, 0),
        ]
        await etcd.revoke(lease)


async def test_one_key(ground: Ground, keys: Keys) -> None:
    """Without `prefix` a key that begins with the watched one is not part of it."""
    async with ground.session() as etcd, aclosing(mirror(etcd, keys.leader, prefix=False)) as stream:
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
async def test_following_on_from_any_event(ground: Ground, keys: Keys, skip: int) -> None:
    """From an event's revision + 1, what comes is all that came after it and nothing that came before."""
    async with ground.session() as etcd:
        begun = (await etcd.range(keys.state)).revision
        for number in range(10):
            if number == 5:
                await etcd.delete(keys.state + "4")
            else:
                await etcd.put(f"{keys.state}{number}", str(number).encode())
                await etcd.put(f"{keys.status}{number}", b"between")
        whole = await followed(etcd, keys.state, begun + 1, 10)
        assert [event.value for event in whole] == [
            None if number == 5 else str(number).encode() for number in range(10)
        ]
        after = whole[skip - 1].mod_revision if skip else begun
        await etcd.put(keys.state + "last", b"last")
        rest = await followed(etcd, keys.state, after + 1, 11 - skip)
        assert rest[:-1] == whole[skip:]
        assert rest[-1].value == b"last"


async def test_a_transaction_is_one_batch(ground: Ground, keys: Keys) -> None:
    """Events of one revision come together, in the transaction's order."""
    end = prefix_end(keys.state)
    async with ground.session() as etcd:
        begun = (await etcd.range(keys.state)).revision
        async with aclosing(follow(etcd, keys.state, end=end, revision=begun + 1)) as stream:
            for part in (
                [op_put(keys.state + "b", b""), op_put(keys.state + "a", b"")],
                [op_delete(keys.state, end=end), op_put(keys.status + "x", b"")],
            ):
                revision = (await etcd.txn([], part)).revision
                while not (changes := await anext(stream)).events:
                    pass
                order = ["b", "a"] if revision == begun + 1 else ["a", "b"]
                assert [event.key.removeprefix(keys.state) for event in changes.events] == order
                assert {event.mod_revision for event in changes.events} == {changes.revision} == {revision}


async def test_a_quiet_watch_shows_that_it_lives(ground: Ground, keys: Keys) -> None:
    """On a store where nothing is written: that is why ours begins one revision early, and what it skips unseen."""
    async with ground.session() as etcd:
        await etcd.put(keys.state + "a", b"x")
        async with aclosing(mirror(etcd, keys.state, progress_s=0.05, silence_s=1.0)) as stream:
            listing = await anext(stream)
            for _ in range(3):
                quiet = await anext(stream)
                assert isinstance(quiet, Changes)
                assert quiet == Changes(listing.revision, ())


async def test_no_sign_of_life_of_a_watch_that_begins_in_the_future(ground: Ground, keys: Keys) -> None:
    """Asked for its progress, etcd is silent, until the store has got there; and it tells nothing from before."""
    async with ground.session() as etcd:
        revision = await etcd.put(keys.state + "a", b"x")
        ask = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
        async with watching(etcd, keys.state, revision + 2, prefix_end(keys.state)) as stream:
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


async def test_the_header_runs_ahead_in_a_catch_up(ground: Ground, keys: Keys) -> None:
    """What a watch is told of the past has the present's revision in its header: who resumed there would lose some."""
    async with ground.session() as etcd:
        first = await etcd.put(keys.state + "a", b"1")
        last = await etcd.put(keys.status + "b", b"2")
        async with watching(etcd, keys.state, first, prefix_end(keys.state)) as stream:
            reply = await stream.receive(_SOON_S)
            assert reply is not None
            assert [event.kv.mod_revision for event in reply.events] == [first]
            assert reply.header.revision == last


async def test_what_is_compacted_cannot_be_followed(ground: Ground, keys: Keys) -> None:
    """Compacted says what is the oldest revision there is; from that one on it works, with its deletions."""
    async with ground.session() as etcd:
        first = await etcd.put(keys.state + "a", b"1")
        await etcd.put(keys.state + "b", b"2")
        gone = (await etcd.txn([], [op_delete(keys.state + "a"), op_put(keys.state + "c", b"3")])).revision
        await maintenance.compact(etcd, gone)
        with pytest.raises(Compacted) as caught:
            await followed(etcd, keys.state, first, 1)
        assert caught.value.revision == gone
        await etcd.put(keys.state + "d", b"4")
        from_there = await followed(etcd, keys.state, gone + 1, 1)
        assert [event.value for event in from_there] == [b"4"]
        async with watching(etcd, keys.state, gone, prefix_end(keys.state)) as stream:
            seen: list[bytes] = []
            while len(seen) < 3:
                reply = await stream.receive(_SOON_S)
                assert reply is not None
                seen += [event.kv.value for event in reply.events]
            assert seen == [b"", b"3", b"4"]


async def test_compaction_under_a_cut_off_watch_is_a_new_listing(ground: Ground, keys: Keys) -> None:
    """What was missed and compacted away comes as a whole new state, and changes go on from there."""
    async with ground.session() as writer, ground.way() as way, aclosing(mirror(way.etcd, keys.state)) as stream:
        await writer.put(keys.state + "old", b"x")
        assert isinstance(await anext(stream), Listing)
        await writer.put(keys.state + "old", b"y")
        assert isinstance(await anext(stream), Changes)
        await way.cut()
        await writer.delete(keys.state + "old")
        last = await writer.put(keys.state + "new", b"z")
        await maintenance.compact(writer, last)
        await way.listen()
        async with asyncio.timeout(_SOON_S):
            listing = await anext(stream)
        assert isinstance(listing, Listing)
        assert [(kv.key, kv.value) for kv in listing.kvs] == [(keys.state + "new", b"z")]
        await writer.put(keys.state + "more", b"!")
        while not (changes := await anext(stream)) or not isinstance(changes, Changes) or not changes.events:
            pass
        assert [event.value for event in changes.events] == [b"!"]


async def test_a_watch_goes_on_behind_what_it_has_seen(ground: Ground, keys: Keys) -> None:
    """Cut off again and again: nothing is lost, doubled or out of order, and no new listing is needed."""
    async with ground.session() as writer, ground.way() as way:
        seen: list[Event] = []
        listings = 0

        async def watch() -> None:
            nonlocal listings
            async with aclosing(mirror(way.etcd, keys.state)) as stream:
                async for item in stream:
                    if isinstance(item, Changes):
                        seen.extend(item.events)
                    else:
                        listings += 1

        task = asyncio.create_task(watch())
        await eventually(lambda: listings == 1, "a listing")
        written = []
        for round_ in range(4):
            written.extend([await writer.put(f"{keys.state}{n}", str(round_).encode()) for n in range(5)])
            await eventually(lambda: len(seen) >= len(written) - 5, "what came before the cut")
            await way.cut()
            written.append(await writer.put(f"{keys.state}cut", b"x"))
            await way.listen()
        await eventually(lambda: len(seen) >= len(written))
        task.cancel()
        await asyncio.wait((task,))
        assert [event.mod_revision for event in seen] == written
        assert listings == 1


async def test_a_batch_larger_than_a_message_comes_in_one_piece(ground: Ground, keys: Keys) -> None:
    """The store cuts it into fragments; the reader sees it whole and in order."""
    async with ground.session() as etcd:
        start = (await etcd.range(keys.state)).revision + 1
        size = REQUEST_BYTES_MAX // 4
        for number in range(9):
            await etcd.put(f"{keys.state}{number}", bytes([number]) * size)
        async with aclosing(follow(etcd, keys.state, end=prefix_end(keys.state), revision=start)) as stream:
            changes = await anext(stream)
            assert [event.value[0] for event in changes.events if event.value] == list(range(9))
        async with watching(etcd, keys.state, start, prefix_end(keys.state), fragment=True) as bare:
            sizes: list[int] = []
            more = True
            while more:
                reply = await bare.receive(_SOON_S)
                assert reply is not None
                sizes.append(len(reply.events))
                more = reply.fragment
            assert len(sizes) > 1
            assert sum(sizes) == 9


async def test_a_watch_that_is_cancelled_says_so_and_is_silent(ground: Ground, keys: Keys) -> None:
    """The last message of a watch that its owner ended."""
    async with ground.session() as etcd, watching(etcd, keys.state, 0, prefix_end(keys.state)) as stream:
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


async def test_expired_keys_are_seen_to_go(ground: Ground, keys: Keys) -> None:
    """A watch hears of a lease's end as of any other deletion, all its keys in one batch."""
    async with ground.session() as etcd:
        lease, _ = await etcd.grant(4)
        for name in "ab":
            await etcd.put(keys.state + name, b"x", lease=lease)
        begun = await etcd.put(keys.state + "c", b"stays")
        gone = await followed(etcd, keys.state, begun + 1, 2)
        assert [(event.key, event.value) for event in gone] == [(keys.state + name, None) for name in "ab"]
        assert {event.mod_revision for event in gone} == {begun + 1}


async def test_closing_the_session_under_a_watch_ends_it_with_an_error(ground: Ground, keys: Keys) -> None:
    """Not with CancelledError, which would look as if its owner had wanted it, and not never."""
    etcd = ground.session()
    stream = mirror(etcd, keys.state)
    await anext(stream)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    await etcd.close()
    await asyncio.wait((waiting,), timeout=_SOON_S)
    assert waiting.done()
    assert not waiting.cancelled()
    assert "closed" in str(waiting.exception())


async def test_several_intervals_by_one_stream(ground: Ground, keys: Keys) -> None:
    """A listing of each, then what changes in each, with its position; nothing between them."""
    async with ground.session() as etcd:
        await etcd.put(keys.state + "a", b"1")
        within = [key_range(keys.leader, prefix=False), key_range(keys.state), key_range(keys.status)]
        async with aclosing(mirror_all(etcd, within, progress_s=0.05, silence_s=1.0)) as stream:
            listings = [await anext(stream) for _ in within]
            assert [(position, len(item.kvs)) for position, item in listings if isinstance(item, Listing)] == [
                (0, 0), (1, 1), (2, 0),
            ]  # fmt: skip
            coming = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(_QUIET_S)
            assert not coming.done(), "progress is the stream's own matter"
            await etcd.put(keys.leader + "-not", b"x")
            for position, key in ((2, keys.status + "s"), (0, keys.leader), (1, keys.state + "b"), (2, keys.status)):
                await etcd.put(key, b"y")
                at, item = await coming
                assert isinstance(item, Changes)
                assert (at, [event.key for event in item.events]) == (position, [key])
                coming = asyncio.ensure_future(anext(stream))
            coming.cancel()
            await asyncio.wait((coming,))


async def test_several_intervals_go_on_behind_what_was_seen_of_each(ground: Ground, keys: Keys) -> None:
    """Cut off: of each interval what was missed, once and in order, without a listing."""
    async with ground.session() as writer, ground.way() as way:
        seen: dict[int, list[int]] = {0: [], 1: []}
        listings = 0

        async def watch() -> None:
            nonlocal listings
            async with aclosing(mirror_all(way.etcd, [key_range(keys.state), key_range(keys.status)])) as stream:
                async for position, item in stream:
                    if isinstance(item, Changes):
                        seen[position] += [event.mod_revision for event in item.events]
                    else:
                        listings += 1

        task = asyncio.create_task(watch())
        await eventually(lambda: listings == 2, "both listings")
        written: dict[int, list[int]] = {0: [], 1: []}
        for _ in range(3):
            await way.cut()
            for position, prefix in ((0, keys.state), (1, keys.status), (0, keys.state)):
                written[position].append(await writer.put(prefix + "x", b"y"))
            await way.listen()
            await eventually(lambda: seen == written, "all of both")
        task.cancel()
        await asyncio.wait((task,))
        assert listings == 2


async def test_a_compaction_under_one_of_several_is_a_new_listing_of_all(ground: Ground, keys: Keys) -> None:
    """What was missed in one of them is gone: each is listed again."""
    async with ground.session() as writer, ground.way() as way:
        within = [key_range(keys.state), key_range(keys.status)]
        async with aclosing(mirror_all(way.etcd, within)) as stream:
            for _ in within:
                assert isinstance((await anext(stream))[1], Listing)
            await writer.put(keys.status + "live", b"x")
            assert (await anext(stream))[0] == 1
            await way.cut()
            await maintenance.compact(writer, await writer.put(keys.state + "new", b"z"))
            await way.listen()
            again: list[tuple[int, list[str]]] = []
            async with asyncio.timeout(_SOON_S):
                while len(again) < len(within):
                    position, item = await anext(stream)
                    if isinstance(item, Listing):
                        again.append((position, [kv.key for kv in item.kvs]))
            assert again == [(0, [keys.state + "new"]), (1, [keys.status + "live"])]
