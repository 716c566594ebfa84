"""Watches keys: lists at a revision, follows from it, resumes after any fault, lists again after a compaction.

Two rules ensure that no event is lost, repeated or reordered. Tests that kill members during a watch revealed them:

- Resume at the *last event's* mod_revision + 1, never at a header's revision: during a catch-up the header is ahead of
  the events.
- Hold the events of a fragmented response back until its last fragment has arrived.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
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
_ALL_WATCHES = -1  # the watch id of an answer to a progress request: it is valid for all watches of the stream
_NO_PUTS = (pb.WatchCreateRequest.NOPUT,)
_ASK_PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


class _Restarted(Compacted):
    """The session restarts its watches: the same follows as after a compaction, a new listing."""

    def __init__(self) -> None:
        super().__init__(0)

    def __str__(self) -> str:
        return "the store was replaced or its epoch changed"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key; `value` is None if the key was deleted."""

    key: str
    value: bytes | None
    mod_revision: int
    create_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys as of `revision`. It replaces everything that was reported before."""

    revision: int
    kvs: tuple[KV, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """The events since the previous item, complete up to `revision`. Without events: the watch is alive and idle.

    To resume, use the revision of the last item that has events. Do not use that of an item without events: some older
    servers report progress up to a revision before they have sent all events up to it.
    """

    revision: int
    events: tuple[Event, ...]
    whole_stream: bool = False
    """Whether this is the answer to a progress request: then all ranges of the stream are complete up to `revision`."""


class ProgressRequests:
    """Lets the consumer of a watch request progress at once, instead of after some silence."""

    def __init__(self) -> None:
        self._stream: Stream | None = None

    def request(self) -> None:
        """Ask etcd how far the watch is. The answer arrives as Changes without events; none if the stream breaks."""
        if self._stream is not None:
            self._stream.request_progress()

    def attach(self, stream: Stream | None) -> None:
        """Send further requests through `stream`. For the watch."""
        self._stream = stream


async def list_at(etcd: Etcd, start: str, *, end: bytes, revision: int = 0, page: int = _PAGE_KEYS) -> Range:
    """All keys from `start` up to `end` at one revision (0: the current one). Compacted if etcd no longer holds it.

    They are read in pages of at most `page` keys, fewer if the values are large.
    """
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
    """The keys from `start` up to, not including, `end`. `key_range` makes it from a prefix or a single key.

    deletions_only: etcd delivers no events of puts.
    """

    start: str
    end: bytes
    deletions_only: bool = False


def key_range(key: str, *, prefix: bool = True, deletions_only: bool = False) -> KeyRange:
    """The range of all keys that begin with `key`; prefix=False: of that key alone."""
    return KeyRange(key, prefix_end(key) if prefix else (key + "\0").encode(), deletions_only)


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
    """Yields the changes from `revision` on, and resumes after every fault.

    Compacted if etcd no longer holds that revision. Denied if etcd refuses the watch.

    If a stream is silent for `progress_s` seconds, a progress notification is requested, and yielded as Changes without
    events. If the stream is still silent `silence_s` seconds after its last message, another stream is opened. If the
    session requests a probe of the stream (see `Etcd.switch_endpoint`), the member has half a second to answer.
    `secondary`: watch through another member than the one in use, if possible. Use it with
    `contextlib.aclosing`.
    """
    timeouts = _StreamTimeouts(progress_s, silence_s, secondary)
    stream = _follow_all(etcd, (KeyRange(start, end),), [revision], timeouts, etcd.watch_restarts)
    async with aclosing(stream):
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
    """Yields a Listing, then Changes without end. After a compaction it yields another Listing.

    It retries during outages. `secondary`: as in `follow`. Use it with `contextlib.aclosing`.
    """
    timeouts = _StreamTimeouts(progress_s, silence_s, secondary)
    async with aclosing(_mirror(etcd, (key_range(key, prefix=prefix),), timeouts, with_idle=True)) as items:
        async for _, item in items:
            yield item


def mirror_all(
    etcd: Etcd,
    key_ranges: Sequence[KeyRange],
    *,
    progress_s: float = PROGRESS_S,
    silence_s: float = SILENCE_S,
    progress: ProgressRequests | None = None,
) -> AsyncGenerator[tuple[int, Listing | Changes], None]:
    """Mirrors several key ranges through one stream. Yields each item with the position of its range in `key_ranges`.

    A Listing of each range comes first, then Changes. Changes without events are yielded only if `progress` is given.
    After a compaction the Listings of all ranges come again. The ranges share the stream's progress requests and its
    faults. A consumer that is slow to take an item delays all of them. Use it with `contextlib.aclosing`.
    """
    timeouts = _StreamTimeouts(progress_s, silence_s, False, progress)
    return _mirror(etcd, key_ranges, timeouts, with_idle=progress is not None)


async def _mirror(
    etcd: Etcd, key_ranges: Sequence[KeyRange], timeouts: _StreamTimeouts, *, with_idle: bool
) -> AsyncGenerator[tuple[int, Listing | Changes], None]:
    """Yields Listings of all ranges, then Changes; with_idle: also those without events."""
    while True:
        next_revisions: list[int] = []
        restarts = etcd.watch_restarts
        for position, keys in enumerate(key_ranges):
            listing = await _list_patiently(etcd, keys.start, keys.end)
            next_revisions.append(listing.revision + 1)
            yield position, Listing(listing.revision, listing.kvs)
        try:
            async with aclosing(_follow_all(etcd, key_ranges, next_revisions, timeouts, restarts)) as stream:
                async for position, changes in stream:
                    if changes.events or with_idle:
                        yield position, changes
        except Compacted as gone:
            log.info("watch of %s: %s; listing all keys again", _describe(key_ranges), gone)


async def _list_patiently(etcd: Etcd, key: str, end: bytes) -> Range:
    faults = 0
    while True:
        try:
            return await list_at(etcd, key, end=end)
        except (Unavailable, Compacted) as error:
            faults += 1
            log.log(logging.INFO if faults == 1 else logging.DEBUG, "listing of %s failed, retrying: %s", key, error)
        await asyncio.sleep(min(_RETRY_MAX_S, 0.05 * faults))


@dataclass(frozen=True, slots=True)
class _StreamTimeouts:
    """The limits of a stream's silence, as in `follow`, whether the stream is secondary, and who requests progress."""

    progress_s: float
    silence_s: float
    secondary: bool
    progress: ProgressRequests | None = None


async def _follow_all(
    etcd: Etcd, key_ranges: Sequence[KeyRange], next_revisions: list[int], timeouts: _StreamTimeouts, restarts: int
) -> AsyncGenerator[tuple[int, Changes], None]:
    """Yields the changes of all ranges from the revisions `next_revisions` on, and resumes after every fault.

    Progress of the stream is yielded as Changes of the first range. restarts: the session's `watch_restarts` when these
    revisions were read. Once that is another number, the revisions may mean another store: raises _Restarted.
    """
    faults = 0
    while True:
        if etcd.watch_restarts != restarts:
            raise _Restarted
        try:
            async with aclosing(_follow_stream(etcd, key_ranges, next_revisions, timeouts, restarts)) as stream:
                async for position, changes in stream:
                    faults = 0
                    if changes.events:
                        next_revisions[position] = changes.revision + 1
                    yield position, changes
        except BrokenStream as fault:
            faults += 1
            level = logging.INFO if faults == 1 else logging.DEBUG
            log.log(level, "watch of %s broke, opening another: %s", _describe(key_ranges), fault)
        if faults > 1:
            await asyncio.sleep(min(_RETRY_MAX_S, 0.05 * (faults - 1)))


def _describe(key_ranges: Sequence[KeyRange]) -> str:
    return key_ranges[0].start + (f" and {len(key_ranges) - 1} more" if len(key_ranges) > 1 else "")


async def _follow_stream(
    etcd: Etcd, key_ranges: Sequence[KeyRange], next_revisions: Sequence[int], timeouts: _StreamTimeouts, restarts: int
) -> AsyncGenerator[tuple[int, Changes], None]:
    stream = await etcd.open_stream("Watch/Watch", secondary=timeouts.secondary)
    try:
        for keys, revision in zip(key_ranges, next_revisions, strict=True):
            await stream.send(pb.WatchRequest(create_request=_create_request(keys, revision)), _OPEN_TIMEOUT_S)
        positions: dict[int, int] = {}  # by watch id: the position of the watch's range
        fragments: list[list[Event]] = [[] for _ in key_ranges]
        if timeouts.progress is not None:
            timeouts.progress.attach(stream)
        opened_by = time.monotonic() + _OPEN_TIMEOUT_S
        while True:
            opening = len(positions) < len(key_ranges)
            reply = await (
                _receive_first(stream, opened_by)
                if opening
                else _receive_next(stream, timeouts, lambda: etcd.watch_restarts != restarts)
            )
            if etcd.watch_restarts != restarts:
                raise _Restarted
            if reply is None:
                raise stream.report_silence()
            _raise_if_ended(reply, stream)
            if reply.created:  # etcd creates watches in the order of the requests
                positions[reply.watch_id] = len(positions)
                continue
            position = 0 if reply.watch_id == _ALL_WATCHES else positions[reply.watch_id]
            fragments[position].extend(_event(item) for item in reply.events)
            if reply.fragment:
                continue
            parts, fragments[position] = fragments[position], []
            old_only = bool(parts) and parts[-1].mod_revision < next_revisions[position]
            events = tuple(event for event in parts if event.mod_revision >= next_revisions[position])
            if not old_only:
                whole_stream = reply.watch_id == _ALL_WATCHES
                yield (
                    position,
                    Changes(events[-1].mod_revision if events else reply.header.revision, events, whole_stream),
                )
    finally:
        if timeouts.progress is not None:
            timeouts.progress.attach(None)
        await stream.close()


def _create_request(keys: KeyRange, wanted: int) -> Any:
    # Begin one revision earlier than wanted. After a listing, the wanted revision is in the future until the next
    # write. etcd reports no progress to a watch that begins in the future, so the watch would seem to be silent.
    # `_follow_stream` drops the events that come twice.
    return pb.WatchCreateRequest(
        key=keys.start.encode(), range_end=keys.end, start_revision=max(1, wanted - 1), progress_notify=True,
        fragment=True, filters=_NO_PUTS if keys.deletions_only else (),
    )  # fmt: skip


async def _receive_first(stream: Stream, deadline: float) -> Any:
    """The next reply of a stream that is being opened; None if none arrived before `deadline`."""
    reply = None
    while reply is None and (left_s := deadline - time.monotonic()) > 0:
        reply = await stream.receive(left_s)
    return reply


async def _receive_next(stream: Stream, timeouts: _StreamTimeouts, restarted: Callable[[], bool]) -> Any:
    """The next reply. Requests progress while there is none; BrokenStream if etcd does not answer in time.

    None if the session restarts its watches.
    """
    # Silence counts from the first progress request, so that a pause of this process is not mistaken for etcd's.
    requested_at: float | None = None
    while True:
        patience_s = _PROBE_TIMEOUT_S if stream.probe_requested else timeouts.silence_s - timeouts.progress_s
        reply = await stream.receive(
            _PROBE_TIMEOUT_S if stream.probe_requested and requested_at is not None else timeouts.progress_s
        )
        if reply is not None or restarted():
            stream.probe_requested = False
            return reply
        now = time.monotonic()
        if requested_at is None:
            requested_at = now
        elif now - requested_at >= patience_s:
            raise stream.report_silence()
        await stream.send(_ASK_PROGRESS, timeouts.progress_s)


def _raise_if_ended(reply: Any, stream: Stream) -> None:
    """Raise if the reply ends a watch, or refuses it: etcd reports that in a reply, not as an error of the stream."""
    if reply.compact_revision:
        raise Compacted(reply.compact_revision)
    if not reply.canceled:
        return
    reason = reply.cancel_reason
    if "permission denied" in reason:
        raise Denied(f"etcd refuses the watch: {reason}")
    if "auth" in reason or "user name is empty" in reason:
        stream.report_token_refused(reason)
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
