"""The journal as server-sent events, from any masterd, resumable by index; and the live stream of who is there.

The two are apart on purpose. The journal's events are numbered and complete: a client that says up to where it has
read misses nothing and hears nothing twice, whichever master it asks next. A number is `<epoch>.<index>`: in a store
that was restored from a backup, indexes are used again for other commands. Liveness has no numbers: it begins with
the present, each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from masterd.api.node_views import command_view, node_views
from masterd.roles.master import Master
from nodestore.cluster.overview import live_masters
from nodestore.errors import Garbage, Invalid, NodectlError, TimedOut, TooOld, Unavailable
from nodestore.schema.api_types import GoneEvent, LiveLeader, LiveMaster
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.keys import prefix_end
from nodestore.schema.models import Entry
from nodestore.support.jsonio import Json, dumps
from nodestore.support.time_slices import TimeSlice
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_KEEPALIVE_COMMENT_S = 2.0
_COALESCE_S = 0.1
_PAGE_ENTRIES = 32
_DIGITS_MAX = 16


def _event(name: str, value: Json, number: bytes | None = None) -> bytes:
    head = b"" if number is None else b"id: %s\n" % number
    return head + b"event: " + name.encode() + b"\ndata: " + dumps(value) + b"\n\n"


@asynccontextmanager
async def open_stream(
    request: web.Request, content_type: str = "text/event-stream"
) -> AsyncIterator[web.StreamResponse]:
    """An answer to write into. What fails inside ends it, for no other answer can follow one that has begun; whoever
    reads it comes again."""
    response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
    await response.prepare(request)
    try:
        yield response
    except ConnectionResetError:  # the reader has gone
        raise
    except NodectlError as error:
        log.debug("the stream %s ends: %s", request.path, error)
    except Exception:  # a fault of ours is for the log, not for the reader
        log.exception("%s %s failed", request.method, request.path)


# --- the journal ----------------------------------------------------------------------------------------------------


async def stream_journal(master: Master, request: web.Request) -> web.StreamResponse:
    """`event: command` for each command after the one asked for (`after`, or the header Last-Event-ID; either
    `<epoch>.<index>` or a bare index), `id` its own; without any from now on. TooOld (410, or `event: gone` later on)
    when the journal is no longer kept from there, or belongs to another epoch."""
    replica = master.replica
    if replica.problem is not None:
        raise Unavailable(f"{master.me.id} does not follow the journal: {replica.problem}")
    position = _position(master, request)
    epoch = replica.epoch
    first = await _page(master, position)
    async with open_stream(request) as response:
        await response.write(b": from %d\n" % position + (b"id: %d.%d\n\n" % (epoch, position) if epoch else b"\n"))
        position = await _write_entries(response, epoch, first, position)
        while True:
            try:
                await replica.wait_for(position + 1, _KEEPALIVE_COMMENT_S)
            except TimedOut:
                await response.write(b": still here\n\n")
            try:
                entries = await _page(master, position)
                epoch = _check_same_epoch(replica.epoch, epoch)
            except TooOld as gone:
                await response.write(_event("gone", GoneEvent(detail=str(gone))))
                break
            position = await _write_entries(response, epoch, entries, position)
    return response


async def _write_entries(response: web.StreamResponse, epoch: int | None, entries: list[Entry], position: int) -> int:
    """The position reached."""
    turns = TimeSlice()
    for event in _command_events(epoch, entries, position):
        await response.write(event)
        await turns.yield_if_used_up()
    return max(position, entries[-1].last if entries else 0)


def _position(master: Master, request: web.Request) -> int:
    """The index after which to begin. TooOld when it was given with another epoch than the store's."""
    text = request.query.get("after") or request.headers.get("Last-Event-ID")
    if text is None:
        return master.replica.index
    epoch, separator, index = text.rpartition(".")
    numbers = (epoch, index) if separator else (index,)
    if any(not number.isascii() or not number.isdigit() or len(number) > _DIGITS_MAX for number in numbers):
        raise Invalid(f"after: expected an index or <epoch>.<index>, got {text[:50]!r}")
    if separator:
        _check_same_epoch(master.replica.epoch, int(epoch))
    return int(index)


def _check_same_epoch(now: int | None, before: int | None) -> int | None:
    if now is not None and before is not None and now != before:
        raise TooOld(
            f"the store was restored from a backup (epoch {now}, not {before} any more): what was read since that "
            "backup is not in it; read the state anew, then follow"
        )
    return now


async def _page(master: Master, position: int) -> list[Entry]:
    """The next entries beyond `position`: from memory when it has them, else from etcd. Never beyond what this
    replica has applied, so that a read after an event finds its effect."""
    replica = master.replica
    if position >= replica.index:
        return []
    recent = replica.recent_after(position)
    if recent is not None:
        return recent[:_PAGE_ENTRIES]
    keys = replica.keys
    found = await replica.etcd.range(keys.entry(position + 1), end=prefix_end(keys.journal), limit=_PAGE_ENTRIES)
    entries, turns = [], TimeSlice()
    for kv in found.kvs:
        with suppress(Garbage):
            entries.append(decode_entry(kv.value, kv.key))
        await turns.yield_if_used_up()
    entries = [entry for entry in entries if entry.last <= replica.index and entry.epoch <= (replica.epoch or 0)]
    if not entries or entries[0].first > position + 1:
        raise TooOld(f"the journal is no longer kept from index {position + 1} on: read the state anew, then follow")
    return entries


def _command_events(epoch: int | None, entries: list[Entry], position: int) -> Iterator[bytes]:
    for entry in entries:
        for command in entry.commands:
            if command.index > position:
                number = b"%d.%d" % (epoch or entry.epoch, command.index)
                yield _event("command", command_view(command, entry), number)


# --- who is there ---------------------------------------------------------------------------------------------------


async def stream_live(master: Master, request: web.Request) -> web.StreamResponse:
    """`leader`, `masters`, `paused` and `nodes` as they are now, then each when it changes. A local read."""
    return await _stream_changes(master, request, _liveness_items)


async def stream_nodes(master: Master, request: web.Request) -> web.StreamResponse:
    """`event: nodes` alone: all nodes first, then those that change."""
    return await _stream_changes(master, request, _node_items)


StreamItems = Mapping[str, Mapping[str, Any]]
"""By event: the things shown, by name. Only those that differ from what was sent are sent again."""


async def _stream_changes(
    master: Master, request: web.Request, look: Callable[[Master], StreamItems]
) -> web.StreamResponse:
    woken = asyncio.Event()
    unsubscribe = master.cluster_view.subscribe(woken.set)
    shown: StreamItems = {}
    try:
        async with open_stream(request) as response:
            while True:
                woken.clear()
                changes, shown = _changes(shown, look(master))
                for event in changes:
                    await response.write(event)
                if changes:
                    await asyncio.sleep(_COALESCE_S)
                elif not await set_within(woken, _KEEPALIVE_COMMENT_S):
                    await response.write(b": still here\n\n")
    finally:
        unsubscribe()
    return response


def _changes(shown: StreamItems, now: StreamItems) -> tuple[list[bytes], StreamItems]:
    """The events that make `now` of what was shown; at first, an event for each kind."""
    events = []
    for event, items in now.items():
        before = shown.get(event)
        changed = [item for name, item in items.items() if before is None or before.get(name) != item]
        gone = [name for name in before or {} if name not in items]
        if changed or gone or before is None:
            events.append(_event(event, {event: changed, "gone": gone}))
    return events, now


def _node_items(master: Master) -> StreamItems:
    board, state = master.cluster_view, master.replica.state
    views = node_views(state.inventory, state, board.status.items, board.alive.items, master.application)
    return {"nodes": {view["name"]: view for view in views}}


def _liveness_items(master: Master) -> StreamItems:
    board = master.cluster_view
    record = board.leader.record
    leader: dict[str, LiveLeader] = {} if record is None else {record.id: {
        "id": record.id, "url": record.urls[0] if record.urls else "", "cause": record.cause, "why": record.why,
        "term": {"epoch": board.epoch, "revision": board.leader.revision}, "since": record.since,
    }}  # fmt: skip
    masters: dict[str, LiveMaster] = {
        view["id"]: view for view in live_masters(board.candidates.items, record.id if record else None)
    }
    paused = {} if board.paused is None else {"paused": board.paused.model_dump(mode="json")}
    return {"leader": leader, "masters": masters, "paused": paused, **_node_items(master)}
