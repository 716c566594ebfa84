"""Server-sent events: the journal, resumable at any masterd, and the state of the cluster as it changes.

The journal has a stream of its own, because its events are numbered and complete: a client that sends the position
which it has reached gets every later command exactly once, from any masterd. A position is `<epoch>.<index>`. The index
alone is ambiguous: after a restore from a backup, the same index may identify another command. The other streams have
no positions; each of them begins with the present state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from masterd.api.node_views import command_view
from masterd.api.read_sources import ReadSources
from masterd.api.secret_views.hiding import each_shown, shows_secrets
from nodestore.cluster.overview import live_masters
from nodestore.errors import Garbage, Invalid, NodectlError, TimedOut, TooOld, Unavailable
from nodestore.schema.api_types import GoneEvent, LiveLeader, LiveMaster
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.keys import prefix_end
from nodestore.schema.records import JournalEntry
from nodestore.support.jsonio import Json, dumps
from nodestore.support.time_slices import TimeSlice
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

Show = Callable[[Any], Any]
"""How an item is shown to the reader of a stream."""
_KEEPALIVE_COMMENT = b": still here\n\n"
_KEEPALIVE_COMMENT_S = 2.0
_COALESCE_S = 0.1
_BEHIND_S = 2.0
"""How long a stream waits for a position that this masterd has not reached."""
_PAGE_ENTRIES = 32
_DIGITS_MAX = 16


def _event(name: str, value: Json, number: bytes | None = None) -> bytes:
    head = b"" if number is None else b"id: %s\n" % number
    return head + b"event: " + name.encode() + b"\ndata: " + dumps(value) + b"\n\n"


@asynccontextmanager
async def open_stream(
    request: web.Request, content_type: str = "text/event-stream"
) -> AsyncIterator[web.StreamResponse]:
    """Open a streaming response. An error inside the block ends the stream, and the client reconnects: once the
    response has begun, its status can no longer report an error."""
    response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
    await response.prepare(request)
    try:
        yield response
    except ConnectionResetError:  # the client disconnected
        raise
    except NodectlError as error:
        log.debug("the stream %s ends: %s", request.path, error)
    except Exception:  # a bug in masterd: it is logged and not shown to the client
        log.exception("%s %s failed", request.method, request.path)


# --- the journal ----------------------------------------------------------------------------------------------------


async def stream_journal(sources: ReadSources, request: web.Request) -> web.StreamResponse:
    """Send `event: command` for each command after a position, with its own position as `id`.

    The position is read from the query's `after` or from the header Last-Event-ID: `<epoch>.<index>`, or an index
    alone. Without one the stream begins at the present index. If the entries after the position were truncated, or the
    epoch is another one, the request fails with TooOld (410); a stream that has begun ends with `event: gone`.
    """
    replica = sources.replica
    if replica.problem is not None:
        raise Unavailable(f"{sources.own_id} does not follow the journal: {replica.problem}")
    position = _position(sources, request)
    await _check_reached(sources, position)
    epoch = replica.epoch
    first = await _page(sources, position)
    async with open_stream(request) as response:
        await response.write(b": from %d\n" % position + (b"id: %d.%d\n\n" % (epoch, position) if epoch else b"\n"))
        show = await _shown_commands(sources, request)
        position = await write_entries(response, epoch, first, position, show)
        while True:
            try:
                await replica.wait_for(position + 1, _KEEPALIVE_COMMENT_S)
            except TimedOut:
                await response.write(_KEEPALIVE_COMMENT)
            try:
                entries = await _page(sources, position)
                epoch = _check_same_epoch(replica.epoch, epoch)
            except TooOld as gone:
                await response.write(_event("gone", GoneEvent(detail=str(gone))))
                break
            if entries:
                show = await _shown_commands(sources, request)  # the marks of secrets may have changed
            position = await write_entries(response, epoch, entries, position, show)
    return response


async def _shown_commands(sources: ReadSources, request: web.Request) -> Show:
    """How the reader of this stream sees commands: with or without secrets."""
    return _unchanged if shows_secrets(request) else (await sources.secrets()).command


def _unchanged(view: Any) -> Any:
    return view


async def write_entries(
    response: web.StreamResponse,
    epoch: int | None,
    entries: list[JournalEntry],
    position: int,
    show: Show = _unchanged,
) -> int:
    """Send the commands of `entries` beyond index `position`, as `show` shows them. Returns the index reached."""
    time_slice = TimeSlice()
    for event in _command_events(epoch, entries, position, show):
        await response.write(event)
        await time_slice.yield_if_used_up()
    return max(position, entries[-1].last if entries else 0)


async def _check_reached(sources: ReadSources, position: int) -> None:
    """Raise an error if the journal does not reach `position`: a stream from there would be silent for ever.

    A standby may be a little behind the masterd at which the client got the position, so this waits for a moment.
    """
    replica = sources.replica
    if position <= replica.index:
        return
    try:
        await replica.wait_for(position, _BEHIND_S)
    except TimedOut as behind:
        if sources.leadership.leader is None and replica.age_s > _BEHIND_S:
            raise Unavailable(f"{sources.own_id} does not follow the journal at present: {behind}") from None
        raise Invalid(
            f"after: index {position} is beyond the end of the journal, which is at {replica.index}"
        ) from None


def _position(sources: ReadSources, request: web.Request) -> int:
    """The index after which the stream begins. Raises TooOld if the request names another epoch than the store's."""
    text = request.query.get("after") or request.headers.get("Last-Event-ID")
    if text is None:
        return sources.replica.index
    epoch, separator, index = text.rpartition(".")
    numbers = (epoch, index) if separator else (index,)
    if any(not number.isascii() or not number.isdigit() or len(number) > _DIGITS_MAX for number in numbers):
        raise Invalid(f"after: expected an index or <epoch>.<index>, got {text[:50]!r}")
    if separator:
        _check_same_epoch(sources.replica.epoch, int(epoch))
    return int(index)


def _check_same_epoch(now: int | None, before: int | None) -> int | None:
    """Returns `now`. Raises TooOld if both epochs are known and differ."""
    if now is not None and before is not None and now != before:
        raise TooOld(
            f"the store was restored from a backup: its epoch is {now}, the position is of epoch {before}. Data read "
            "before the restore may be missing from it; read the state again, then follow the journal"
        )
    return now


async def _page(sources: ReadSources, position: int) -> list[JournalEntry]:
    """The next entries beyond index `position`, from memory if they are there, else from etcd.

    Returns no entry that this replica has not applied, so that a read after an event sees its effect. Raises TooOld
    if the entries were truncated.
    """
    replica = sources.replica
    if position >= replica.index:
        return []
    recent = replica.recent_after(position, _PAGE_ENTRIES)
    if recent is not None:
        return recent
    keys = sources.keys
    stored = await sources.etcd.range(keys.entry(position + 1), end=prefix_end(keys.journal), limit=_PAGE_ENTRIES)
    entries, time_slice = [], TimeSlice()
    for kv in stored.kvs:
        with suppress(Garbage):
            entries.append(decode_entry(kv.value, kv.key))
        await time_slice.yield_if_used_up()
    entries = [entry for entry in entries if entry.last <= replica.index and entry.epoch <= (replica.epoch or 0)]
    if not entries or entries[0].first > position + 1:
        raise TooOld(
            f"the journal was truncated: index {position + 1} is no longer in it; read the state again, then follow "
            "the journal"
        )
    return entries


def _command_events(epoch: int | None, entries: list[JournalEntry], position: int, show: Show) -> Iterator[bytes]:
    for entry in entries:
        for command in entry.commands:
            if command.index > position:
                number = b"%d.%d" % (epoch or entry.epoch, command.index)
                yield _event("command", show(command_view(command, entry)), number)


# --- the state of the cluster ---------------------------------------------------------------------------------------


async def stream_cluster(sources: ReadSources, request: web.Request) -> web.StreamResponse:
    """Send `leader`, `masters`, `paused` and `nodes` as they are, then the items that change. A local read."""
    return await _stream_changes(sources, request, _cluster_items)


async def stream_nodes(sources: ReadSources, request: web.Request) -> web.StreamResponse:
    """Send `event: nodes` with all nodes, then with those that change. A local read."""
    return await _stream_changes(sources, request, _node_items)


StreamItems = Mapping[str, Mapping[str, Any]]
"""By event, then by name: the items of a stream. Only items that differ from those sent before are sent."""


async def _stream_changes(
    sources: ReadSources, request: web.Request, current_items: Callable[[ReadSources], StreamItems]
) -> web.StreamResponse:
    woken = asyncio.Event()
    unsubscribe = [sources.cluster_view.subscribe(woken.set), sources.replica.subscribe(lambda _: woken.set())]
    sent: StreamItems = {}
    try:
        async with open_stream(request) as response:
            while True:
                woken.clear()
                await sources.cluster_view.desired.refresh()
                show = _unchanged if shows_secrets(request) else (await sources.secrets()).node
                changes, sent = await _changes(sent, current_items(sources), show)
                for event in changes:
                    await response.write(event)
                if changes:
                    await asyncio.sleep(_COALESCE_S)
                elif not await set_within(woken, _KEEPALIVE_COMMENT_S):
                    await response.write(_KEEPALIVE_COMMENT)
    finally:
        for end in unsubscribe:
            end()
    return response


async def _changes(sent: StreamItems, now: StreamItems, show: Show) -> tuple[list[bytes], StreamItems]:
    """The events that report how `now` differs from `sent`, and `now` itself. show: how the reader sees nodes.

    An event whose name is not in `sent` is included even if it has no items.
    """
    events = []
    for event, items in now.items():
        before = sent.get(event)
        changed = [item for name, item in items.items() if before is None or before.get(name) != item]
        gone = [name for name in before or {} if name not in items]
        if event == "nodes":
            changed = await each_shown(changed, show)
        if changed or gone or before is None:
            events.append(_event(event, {event: changed, "gone": gone}))
    return events, now


def _node_items(sources: ReadSources) -> StreamItems:
    return {"nodes": {node["name"]: node for node in sources.node_views()}}


def _cluster_items(sources: ReadSources) -> StreamItems:
    view = sources.cluster_view
    record = view.leader.record
    leader: dict[str, LiveLeader] = {} if record is None else {record.id: {
        "id": record.id, "url": record.urls[0] if record.urls else "", "cause": record.cause, "why": record.why,
        "term": {"epoch": view.epoch, "revision": view.leader.revision}, "since": record.since,
    }}  # fmt: skip
    masters: dict[str, LiveMaster] = {
        item["id"]: item for item in live_masters(view.candidates.items, record.id if record else None)
    }
    paused = {} if view.paused is None else {"paused": view.paused.model_dump(mode="json")}
    return {"leader": leader, "masters": masters, "paused": paused, **_node_items(sources)}
