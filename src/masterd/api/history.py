"""The history as people ask for it: commands from the journal, filtered, the newest or the oldest first.

Read from etcd in pages, so that a filter finds what it looks for however long ago that was, within bounds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from aiohttp import web

from masterd.api.node_views import command_view
from masterd.api.reads import HISTORY_MAX, query_number
from masterd.replication.journal_reader import read_entries
from masterd.roles.master import Master
from nodestore.errors import Garbage
from nodestore.schema.api_types import CommandView, History, UnreadableCommands
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.models import affects_node
from nodestore.support.time_slices import TimeSlice

_PAGE = 100
_SCANNED_MAX = 20_000
"""Commands looked at for one answer; who wants more goes on from `searched`."""
_GARBAGE_MAX = 5

HistoryItem = CommandView | UnreadableCommands


async def history(master: Master, request: web.Request) -> History:
    """Commands from the journal: newest first, or, with `after`, oldest first from there on. `searched`: the last index
    that was looked at."""
    limit = min(query_number(request, "limit", 100, 1), HISTORY_MAX)
    after, before = query_number(request, "after", -1), query_number(request, "before", 0)
    wanted, now = _filter(request), master.replica.index
    found: list[HistoryItem] = []
    searched: int | None = None
    pages = _onward(master, after + 1, now) if after >= 0 else _back(master, min(now, before - 1) if before else now)
    async for searched, page in pages:
        found += [item for item in page if wanted(item)]
        if len(found) >= limit:
            searched = found[limit - 1]["index"] or searched
            break
    return {
        "entries": found[:limit], "first_retained": await _first_retained(master), "index": now, "searched": searched,
    }  # fmt: skip


async def _back(master: Master, last: int) -> AsyncIterator[tuple[int, list[HistoryItem]]]:
    """Pages from index `last` back, each with how far it reaches. None before the first command: there is nothing."""
    for _ in range(_SCANNED_MAX // _PAGE):
        if last < 1:
            return
        first = max(1, last - _PAGE + 1)
        page = await _page(master, first, last)
        page.reverse()
        yield first, page
        if not page:
            return
        last = first - 1


async def _onward(master: Master, first: int, last: int) -> AsyncIterator[tuple[int, list[HistoryItem]]]:
    """Pages from index `first` on up to `last`, each with how far it reaches."""
    for _ in range(_SCANNED_MAX // _PAGE):
        if first > last:
            return
        end = min(last, first + _PAGE - 1)
        yield end, await _page(master, first, end)
        first = end + 1


async def _page(master: Master, first: int, last: int) -> list[HistoryItem]:
    """What the journal holds of these indexes, in their order; garbage is told as such."""
    keys, turns = master.keys, TimeSlice()
    told: list[HistoryItem] = []
    async for kv, entry in read_entries(master.etcd, keys, first, last):
        if isinstance(entry, Garbage):
            if keys.entry(first) <= kv.key <= keys.entry(last):  # else another page tells of it
                told.append({"index": None, "problem": str(entry)})
            continue
        for record in entry.commands:
            if first <= record.index <= last:
                told.append(command_view(record, entry))
                await turns.yield_if_used_up()
    return told


def _filter(request: web.Request) -> Callable[[HistoryItem], bool]:
    """Whether a command is asked for, by node, actor and name."""
    node, actor, name = (request.query.get(field) for field in ("node", "actor", "command"))

    def wanted(item: HistoryItem) -> bool:
        return (
            (node is None or affects_node(item, node))
            and (actor is None or item.get("actor") == actor)
            and (name is None or item.get("name") == name)
        )

    return wanted


async def _first_retained(master: Master) -> int | None:
    oldest = await master.etcd.range(master.keys.journal, limit=_GARBAGE_MAX)
    for kv in oldest.kvs:
        with suppress(Garbage):
            return decode_entry(kv.value, kv.key).first
    return None
