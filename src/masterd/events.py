"""The journal as server-sent events, from any masterd, resumable by index; and the live stream of who is there.

The two are apart on purpose. The journal's events are numbered and complete: a client that says up to where it has
read misses nothing and hears nothing twice, whichever master it asks next. Liveness has no numbers: it begins with
the present, each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from masterd.master import Master
from masterd.queries import master_views, node_views
from nodestore.errors import Garbage, Invalid, TimedOut, TooOld, Unavailable
from nodestore.jsonio import Json, dumps
from nodestore.keys import prefix_end
from nodestore.models import Entry, decode

_HEARTBEAT_S = 2.0
_COALESCE_S = 0.1
_PAGE_ENTRIES = 32


def _event(name: str, value: Json, number: int | None = None) -> bytes:
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: " + name.encode() + b"\ndata: " + dumps(value) + b"\n\n"


async def _open(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    return response


# --- the journal ----------------------------------------------------------------------------------------------------


async def stream_journal(master: Master, request: web.Request) -> web.StreamResponse:
    """`event: command` for each command after the index asked for (`after`, or the header Last-Event-ID), `id` its
    index; without either from now on. TooOld (410) when the journal is no longer retained from there."""
    if master.replica.problem is not None:
        raise Unavailable(f"{master.me.id} does not follow the journal: {master.replica.problem}")
    position = _position(master, request)
    first = await _page(master, position)
    response = await _open(request)
    await response.write(b": from %d\n\n" % position)
    for event in _told(first, position):
        await response.write(event)
    position = max(position, first[-1].last if first else 0)
    while True:
        try:
            await master.replica.wait_for(position + 1, _HEARTBEAT_S)
        except TimedOut:
            await response.write(b": still here\n\n")
            continue
        try:
            entries = await _page(master, position)
        except TooOld as gone:
            await response.write(_event("gone", {"detail": str(gone)}))
            return response
        for event in _told(entries, position):
            await response.write(event)
        position = max(position, entries[-1].last if entries else 0)


def _position(master: Master, request: web.Request) -> int:
    text = request.query.get("after") or request.headers.get("Last-Event-ID")
    if text is None:
        return master.replica.index
    if not text.isascii() or not text.isdigit():
        raise Invalid(f"after: expected a whole number, got {text!r}")
    return int(text)


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
    entries = []
    for kv in found.kvs:
        try:
            entries.append(decode(Entry, kv.value, kv.key))
        except Garbage:
            continue
    entries = [entry for entry in entries if entry.last <= replica.index]
    if not entries or entries[0].first > position + 1:
        raise TooOld(f"the journal is no longer kept from index {position + 1} on: read the state anew, then follow")
    return entries


def _told(entries: list[Entry], position: int) -> Iterator[bytes]:
    for entry in entries:
        for command in entry.commands:
            if command.index > position:
                told = {
                    **command.model_dump(mode="json", exclude_defaults=True),
                    "epoch": entry.epoch,
                    "term": entry.term,
                }
                yield _event("command", told, command.index)


# --- who is there ---------------------------------------------------------------------------------------------------


async def stream_live(master: Master, request: web.Request) -> web.StreamResponse:
    """`leader`, `masters`, `paused` and `nodes` as they are now, then each when it changes. A local read."""
    return await _stream_changes(master, request, _live)


async def stream_nodes(master: Master, request: web.Request) -> web.StreamResponse:
    """`event: nodes` alone: all nodes first, then those that change."""
    return await _stream_changes(master, request, _nodes)


Snapshot = dict[str, dict[str, Any]]
"""By event: the things shown, by name. Only those that differ from what was sent are sent again."""


async def _stream_changes(
    master: Master, request: web.Request, look: Callable[[Master], Snapshot]
) -> web.StreamResponse:
    response = await _open(request)
    woken = asyncio.Event()
    unsubscribe = master.board.subscribe(woken.set)
    shown: Snapshot = {}
    try:
        while True:
            woken.clear()
            now = look(master)
            sent = False
            for event, items in now.items():
                before = shown.get(event)
                changed = [item for name, item in items.items() if before is None or before.get(name) != item]
                gone = [name for name in before or {} if name not in items]
                if changed or gone or before is None:
                    await response.write(_event(event, {event: changed, "gone": gone}))
                    sent = True
            shown = now
            if sent:
                await asyncio.sleep(_COALESCE_S)
            elif not await _woken(woken):
                await response.write(b": still here\n\n")
    finally:
        unsubscribe()


def _nodes(master: Master) -> Snapshot:
    board, state = master.board, master.replica.state
    views = node_views(state.inventory, state, board.status.items, board.alive.items)
    return {"nodes": {view.name: view for view in views}}


def _live(master: Master) -> Snapshot:
    board = master.board
    record = board.leader.record
    leader = {} if record is None else {record.id: {
        "id": record.id, "url": record.urls[0] if record.urls else "", "cause": record.cause, "why": record.why,
        "term": {"epoch": board.epoch, "revision": board.leader.revision}, "since": record.since,
    }}  # fmt: skip
    masters = master_views(board.candidates.items, record.id if record else None)
    for view in masters:
        del view["index"]  # it changes with every command: that is the journal's matter
    paused = {} if board.paused is None else {"paused": board.paused}
    return {"leader": leader, "masters": {view["id"]: view for view in masters}, "paused": paused, **_nodes(master)}


async def _woken(woken: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(_HEARTBEAT_S):
            await woken.wait()
    except TimeoutError:
        return False
    return True
