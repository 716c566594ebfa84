"""GET /v1/history: commands from the journal, filtered, newest or oldest first.

The journal is read from etcd in pages until enough commands match the filter. Each answer scans a limited number of
commands; the client continues from where it ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from aiohttp import web

from masterd.api.node_views import command_view
from masterd.api.read_sources import ReadSources
from masterd.api.reads import HISTORY_MAX, query_number
from masterd.replication.journal_reader import read_entries
from nodestore.errors import Garbage
from nodestore.schema.api_types import CommandView, History, UnreadableCommands
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.models import affects_node
from nodestore.support.time_slices import TimeSlice

_PAGE = 100
_SCANNED_MAX = 20_000
"""Maximum number of commands scanned for one answer. A client continues from `searched`."""
_GARBAGE_MAX = 5

HistoryItem = CommandView | UnreadableCommands


async def history(sources: ReadSources, request: web.Request) -> History:
    """Commands from the journal: newest first, or, with `after`, oldest first beyond that index. `searched` is the
    last index that was scanned."""
    limit = min(query_number(request, "limit", 100, 1), HISTORY_MAX)
    after, before = query_number(request, "after", -1), query_number(request, "before", 0)
    matches, now = _filter(request), sources.replica.index
    items: list[HistoryItem] = []
    searched: int | None = None
    newest = min(now, before - 1) if before else now
    pages = _pages_forward(sources, after + 1, now) if after >= 0 else _pages_backward(sources, newest)
    async for searched, page in pages:
        items += [item for item in page if matches(item)]
        if len(items) >= limit:
            searched = items[limit - 1]["index"] or searched
            break
    return {
        "entries": items[:limit], "first_retained": await _first_retained(sources), "index": now, "searched": searched,
    }  # fmt: skip


async def _pages_backward(sources: ReadSources, last: int) -> AsyncIterator[tuple[int, list[HistoryItem]]]:
    """Pages from index `last` backward, newest first, each with the lowest index that it covers."""
    for _ in range(_SCANNED_MAX // _PAGE):
        if last < 1:
            return
        first = max(1, last - _PAGE + 1)
        page = await _page(sources, first, last)
        page.reverse()
        yield first, page
        if not page:
            return
        last = first - 1


async def _pages_forward(sources: ReadSources, first: int, last: int) -> AsyncIterator[tuple[int, list[HistoryItem]]]:
    """Pages from index `first` up to `last`, oldest first, each with the highest index that it covers."""
    for _ in range(_SCANNED_MAX // _PAGE):
        if first > last:
            return
        end = min(last, first + _PAGE - 1)
        yield end, await _page(sources, first, end)
        first = end + 1


async def _page(sources: ReadSources, first: int, last: int) -> list[HistoryItem]:
    """The commands of the journal with these indexes, in order. An unreadable entry becomes an item with `problem`."""
    keys, time_slice = sources.keys, TimeSlice()
    items: list[HistoryItem] = []
    async for kv, entry in read_entries(sources.etcd, keys, first, last):
        if isinstance(entry, Garbage):
            if keys.entry(first) <= kv.key <= keys.entry(last):  # else the page to which the key belongs reports it
                items.append({"index": None, "problem": str(entry)})
            continue
        for record in entry.commands:
            if first <= record.index <= last:
                items.append(command_view(record, entry))
                await time_slice.yield_if_used_up()
    return items


def _filter(request: web.Request) -> Callable[[HistoryItem], bool]:
    """A predicate for the query's filters: node, actor and name of the command."""
    node, actor, name = (request.query.get(field) for field in ("node", "actor", "command"))

    def matches(item: HistoryItem) -> bool:
        return (
            (node is None or affects_node(item, node))
            and (actor is None or item.get("actor") == actor)
            and (name is None or item.get("name") == name)
        )

    return matches


async def _first_retained(sources: ReadSources) -> int | None:
    """The lowest index in the journal; None if it is empty or its first five entries are unreadable."""
    oldest = await sources.etcd.range(sources.keys.journal, limit=_GARBAGE_MAX)
    for kv in oldest.kvs:
        with suppress(Garbage):
            return decode_entry(kv.value, kv.key).first
    return None
