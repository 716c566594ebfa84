"""Watching keys: list at a revision, follow from it, resume after any fault, list anew after a compaction.

Nothing is lost, doubled or reordered, because of two rules that were learnt by killing members under a watch:
resume at the *last event's* mod_revision + 1, never at a header's revision (during a catch-up the header is ahead of
the events), and hold a batch back until its last fragment is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from nodestore.errors import Compacted, Denied, TooLarge, Unavailable
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import KV, BrokenStream, Etcd, Range, Stream
from nodestore.schema.keys import prefix_end

log = logging.getLogger(__name__)

PROGRESS_S = 2.0
SILENCE_S = 5.0
_OPEN_TIMEOUT_S = 2.0
_PROBE_TIMEOUT_S = 0.5
_PAGE_KEYS = 1000
_PAGE_S = 10.0
_RETRY_MAX_S = 1.0
_ALL_WATCHES = -1  # the watch that a progress belongs to, when the stream was asked for it
_ASK_PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key; `value` is None when it was deleted."""

    key: str
    value: bytes | None
    mod_revision: int
    create_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys as of `revision`: replaces everything known before."""

    revision: int
    kvs: tuple[KV, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened since the item before, complete up to `revision`. Without events: it lives and has nothing new.

    Follow on from an event's revision, not from one that came without events: some older servers say it too early.
    """

    revision: int
    events: tuple[Event, ...]


async def list_at(etcd: Etcd, start: str, *, end: bytes, revision: int = 0, page: int = _PAGE_KEYS) -> Range:
    """All keys from `start` up to `end` as of one revision, read in pages of at most `page` keys, fewer where they are
    large. Compacted when that revision is gone."""
    kvs: list[KV] = []
    begin = start.encode()
    while True:
        try:
            part = await etcd.range(begin, end=end, revision=revision, limit=page, timeout_s=_PAGE_S)
        except TooLarge:
            if page == 1:
                raise
            page = max(1, page // 4)
            continue
        revision = revision or part.revision
        kvs.extend(part.kvs)
        if not part.has_more:
            return Range(revision, tuple(kvs), False, len(kvs))
        begin = part.next_start


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys from `start` up to `end`, which may be a prefix or a single one (`key_range`)."""

    start: str
    end: bytes


def key_range(key: str, *, prefix: bool = True) -> KeyRange:
    """All keys that begin with `key`, or that one alone."""
    return KeyRange(key, prefix_end(key) if prefix else (key + "\0").encode())


async def follow(
    etcd: Etcd,
    start: str,
    *,
    end: bytes,
    revision: int,
    progress_s: float = PROGRESS_S,
    silence_s: float = SILENCE_S,
    secondary: bool = False,
) -> AsyncGenerator[Changes, None]:
    """Changes from `revision` on, through every fault. Raises Compacted when they are gone, Denied when refused.

    A stream that says nothing for `progress_s` is asked for its progress, which comes as Changes without events; one
    that is still silent after `silence_s` is given up; within half a second where its member is in doubt (see
    `Etcd.leave`). `secondary`: by another member than the one in use. Use it with `contextlib.aclosing`.
    """
    pace = _StreamTimeouts(progress_s, silence_s, secondary)
    async with aclosing(_follow_all(etcd, (KeyRange(start, end),), [revision], pace)) as stream:
        async for _, changes in stream:
            yield changes


async def mirror(
    etcd: Etcd,
    key: str,
    *,
    prefix: bool = True,
    progress_s: float = PROGRESS_S,
    silence_s: float = SILENCE_S,
    secondary: bool = False,
) -> AsyncGenerator[Listing | Changes, None]:
    """A Listing, then Changes for ever; another Listing after a compaction. Outages are waited out. `secondary`: as
    `follow`.

    Use it with `contextlib.aclosing`.
    """
    end = key_range(key, prefix=prefix).end
    while True:
        listing = await _list_patiently(etcd, key, end)
        yield Listing(listing.revision, listing.kvs)
        try:
            async with aclosing(
                follow(
                    etcd, key, end=end, revision=listing.revision + 1, progress_s=progress_s, silence_s=silence_s,
                    secondary=secondary,
                )
            ) as stream:  # fmt: skip
                async for changes in stream:
                    yield changes
        except Compacted as gone:
            log.info("watch of %s: %s; listing anew", key, gone)


async def mirror_all(
    etcd: Etcd, key_ranges: Sequence[KeyRange], *, progress_s: float = PROGRESS_S, silence_s: float = SILENCE_S
) -> AsyncGenerator[tuple[int, Listing | Changes], None]:
    """Several mirrors by one stream to etcd, so that one question for its progress, and one fault, is that of all: each
    item with the position of the interval that it belongs to. Changes always have events. Who is slow to take an item
    holds all of them up.

    A Listing of each, then what changes; after a compaction Listings of all again. Use it with `contextlib.aclosing`.
    """
    pace = _StreamTimeouts(progress_s, silence_s, False)
    while True:
        wanted: list[int] = []
        for position, keys in enumerate(key_ranges):
            listing = await _list_patiently(etcd, keys.start, keys.end)
            wanted.append(listing.revision + 1)
            yield position, Listing(listing.revision, listing.kvs)
        try:
            async with aclosing(_follow_all(etcd, key_ranges, wanted, pace)) as stream:
                async for position, changes in stream:
                    if changes.events:
                        yield position, changes
        except Compacted as gone:
            log.info("watch of %s: %s; listing anew", _describe(key_ranges), gone)


async def _list_patiently(etcd: Etcd, key: str, end: bytes) -> Range:
    faults = 0
    while True:
        try:
            return await list_at(etcd, key, end=end)
        except (Unavailable, Compacted) as error:
            faults += 1
            log.log(logging.INFO if faults == 1 else logging.DEBUG, "listing %s again: %s", key, error)
        await asyncio.sleep(min(_RETRY_MAX_S, 0.05 * faults))


@dataclass(frozen=True, slots=True)
class _StreamTimeouts:
    """When a stream is asked for a sign of life, when it is given up, and by which member it goes."""

    progress_s: float
    silence_s: float
    secondary: bool


async def _follow_all(
    etcd: Etcd, key_ranges: Sequence[KeyRange], wanted: list[int], pace: _StreamTimeouts
) -> AsyncGenerator[tuple[int, Changes], None]:
    """Changes of all of them from the revisions `wanted` on, through every fault; a progress counts as the first's."""
    faults = 0
    while True:
        try:
            async with aclosing(_follow_stream(etcd, key_ranges, wanted, pace)) as stream:
                async for position, changes in stream:
                    faults = 0
                    if changes.events:
                        wanted[position] = changes.revision + 1
                    yield position, changes
        except BrokenStream as fault:
            faults += 1
            level = logging.INFO if faults == 1 else logging.DEBUG
            log.log(level, "watch of %s goes on elsewhere: %s", _describe(key_ranges), fault)
        if faults > 1:
            await asyncio.sleep(min(_RETRY_MAX_S, 0.05 * (faults - 1)))


def _describe(intervals: Sequence[KeyRange]) -> str:
    return intervals[0].start + (f" and {len(intervals) - 1} more" if len(intervals) > 1 else "")


async def _follow_stream(
    etcd: Etcd, key_ranges: Sequence[KeyRange], wanted: Sequence[int], pace: _StreamTimeouts
) -> AsyncGenerator[tuple[int, Changes], None]:
    stream = await etcd.open_stream("Watch/Watch", secondary=pace.secondary)
    try:
        for keys, revision in zip(key_ranges, wanted, strict=True):
            await stream.send(pb.WatchRequest(create_request=_create_request(keys, revision)), _OPEN_TIMEOUT_S)
        positions: dict[int, int] = {}  # of watches, by the numbers that etcd has given them
        fragments: list[list[Event]] = [[] for _ in key_ranges]
        opened_by = time.monotonic() + _OPEN_TIMEOUT_S
        while True:
            opening = len(positions) < len(key_ranges)
            reply = await (_receive_first(stream, opened_by) if opening else _receive_next(stream, pace))
            if reply is None:
                raise stream.report_silence()
            _raise_if_ended(reply, stream)
            if reply.created:  # in the order in which they were asked for
                positions[reply.watch_id] = len(positions)
                continue
            position = 0 if reply.watch_id == _ALL_WATCHES else positions[reply.watch_id]
            fragments[position].extend(_event(item) for item in reply.events)
            if reply.fragment:
                continue
            parts, fragments[position] = fragments[position], []
            old_only = bool(parts) and parts[-1].mod_revision < wanted[position]
            events = tuple(event for event in parts if event.mod_revision >= wanted[position])
            if not old_only:
                yield position, Changes(events[-1].mod_revision if events else reply.header.revision, events)
    finally:
        await stream.close()


def _create_request(keys: KeyRange, wanted: int) -> Any:
    # One revision earlier than wanted: etcd gives no sign of progress to a watch that begins in the future, so on an
    # idle store, where nothing is written after the listing, every watch would look silent. What comes twice is left
    # out.
    return pb.WatchCreateRequest(
        key=keys.start.encode(), range_end=keys.end, start_revision=max(1, wanted - 1), progress_notify=True,
        fragment=True,
    )  # fmt: skip


async def _receive_first(stream: Stream, deadline: float) -> Any:
    """The next reply of a stream that is being opened; None: there was none in time."""
    reply = None
    while reply is None and (left_s := deadline - time.monotonic()) > 0:
        reply = await stream.receive(left_s)
    return reply


async def _receive_next(stream: Stream, pace: _StreamTimeouts) -> Any:
    """The next reply. Silence counts from the first question, so that a pause of this process is none of etcd's."""
    asked: float | None = None
    while True:
        patience_s = _PROBE_TIMEOUT_S if stream.probe_requested else pace.silence_s - pace.progress_s
        reply = await stream.receive(
            _PROBE_TIMEOUT_S if stream.probe_requested and asked is not None else pace.progress_s
        )
        if reply is not None:
            stream.probe_requested = False
            return reply
        now = time.monotonic()
        if asked is None:
            asked = now
        elif now - asked >= patience_s:
            raise stream.report_silence()
        await stream.send(_ASK_PROGRESS, pace.progress_s)


def _raise_if_ended(reply: Any, stream: Stream) -> None:
    """A watch that etcd ends, or never began, says so in an answer, not as an error of the stream."""
    if reply.compact_revision:
        raise Compacted(reply.compact_revision)
    if not reply.canceled:
        return
    reason = reply.cancel_reason
    if "permission denied" in reason:
        raise Denied(f"etcd refuses the watch: {reason}")
    if "auth" in reason or "user name is empty" in reason:
        stream.report_token_refused()
    raise BrokenStream(f"{stream.address}: watch canceled: {reason}")


def _event(item: Any) -> Event:
    kv = item.kv
    deleted = item.type == pb.Event.DELETE
    return Event(
        kv.key.decode("utf-8", "replace"),
        None if deleted else kv.value,
        kv.mod_revision,
        kv.create_revision,
        kv.lease,
    )
