"""GET /v1/history: commands from the journal, filtered, newest or oldest first.

The journal is read from etcd in pages until enough commands match the filter. Each answer scans for a limited time; the
client continues from where it ended.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from masterd.api.node_views import command_view
from masterd.api.read_sources import ReadSources
from masterd.api.reads import HISTORY_MAX, query_number
from masterd.replication.journal_reader import read_entries
from nodestore.errors import Garbage, Invalid
from nodestore.schema.api_types import CommandView, History, UnreadableCommands
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.models import affects_node
from nodestore.schema.records import JournalRecord, record_fields
from nodestore.support.time_slices import TimeSlice

_PAGE = 500
_SCANNED_MAX = 20_000
"""Maximum number of commands scanned for one answer. A client continues from `searched`."""
_SCAN_S = 1.5
"""Time after which no further page is scanned. Clients wait five seconds for an answer: without one they would look for
another leader."""
_GARBAGE_MAX = 5

HistoryItem = CommandView | UnreadableCommands
Matches = Callable[[JournalRecord], bool]


@dataclass(frozen=True, slots=True)
class _Page:
    """The matching commands among the indexes up to `searched`. is_last: nothing beyond them can match."""

    searched: int
    items: list[HistoryItem]
    is_last: bool


async def history(sources: ReadSources, request: web.Request) -> History:
    """Commands from the journal: newest first, or, with `after`, oldest first beyond that index. `searched` is the
    last index that was scanned."""
    limit = min(query_number(request, "limit", 100, 1), HISTORY_MAX)
    after, before = query_number(request, "after", -1), query_number(request, "before", 0)
    scan, now = _Scan(sources, _filter(request), _since(request)), sources.replica.index
    items: list[HistoryItem] = []
    searched: int | None = None
    newest = min(now, before - 1) if before else now
    ended = False
    async for page in scan.forward(after + 1, now) if after >= 0 else scan.backward(newest):
        searched, ended = page.searched, page.is_last
        items += page.items
        if len(items) >= limit:
            searched, ended = items[limit - 1]["index"] or searched, ended and len(items) == limit
            break
    return {
        "entries": items[:limit], "first_retained": await _first_retained(sources), "index": now, "searched": searched,
        "ended": ended or searched is None,
    }  # fmt: skip


class _Scan:
    """Reads pages of the journal until the limits of one answer are reached."""

    def __init__(self, sources: ReadSources, matches: Matches, since: float) -> None:
        self._sources, self._matches, self._since = sources, matches, since
        self._deadline = asyncio.get_running_loop().time() + _SCAN_S

    def _is_over(self) -> bool:
        return asyncio.get_running_loop().time() > self._deadline

    async def backward(self, last: int) -> AsyncIterator[_Page]:
        """Pages from index `last` backward, newest first, each with the lowest index that it covers."""
        for _ in range(_SCANNED_MAX // _PAGE):
            if last < 1:
                return
            first = max(1, last - _PAGE + 1)
            items, found = await self._page(first, last)
            items.reverse()
            # The times of commands never decrease, so all before a command that is too old are too old.
            too_old = found is None or found < self._since
            yield _Page(first, items, too_old or first == 1)
            if too_old or self._is_over():
                return
            last = first - 1

    async def forward(self, first: int, last: int) -> AsyncIterator[_Page]:
        """Pages from index `first` up to `last`, oldest first, each with the highest index that it covers."""
        for _ in range(_SCANNED_MAX // _PAGE):
            if first > last:
                return
            end = min(last, first + _PAGE - 1)
            items, _found = await self._page(first, end)
            yield _Page(end, items, end == last)
            if self._is_over():
                return
            first = end + 1

    async def _page(self, first: int, last: int) -> tuple[list[HistoryItem], float | None]:
        """The matching commands with these indexes, in order, and the time of the oldest command, matching or not.

        An unreadable entry becomes an item with `problem`. The time is None if there is no command.
        """
        keys, time_slice = self._sources.keys, TimeSlice()
        items: list[HistoryItem] = []
        oldest: float | None = None
        async for kv, entry in read_entries(self._sources.etcd, keys, first, last):
            if isinstance(entry, Garbage):
                if keys.entry(first) <= kv.key <= keys.entry(last):  # else the page to which the key belongs reports it
                    items.append({"index": None, "problem": str(entry)})
                    oldest = self._since if oldest is None else oldest  # its time is unknown: go on
                continue
            for record in entry.commands:
                if first <= record.index <= last:
                    oldest = record.time if oldest is None else oldest
                    if record.time >= self._since and self._matches(record):
                        items.append(command_view(record, entry))
                    await time_slice.yield_if_used_up()
        return items, oldest


def _filter(request: web.Request) -> Matches:
    """A predicate for the query's filters: node, actor and name of the command."""
    node, actor, name = (request.query.get(field) for field in ("node", "actor", "command"))

    def matches(record: JournalRecord) -> bool:
        return (
            (actor is None or record.actor == actor)
            and (name is None or record.name == name)
            and (node is None or affects_node(record_fields(record), node))
        )

    return matches


def _since(request: web.Request) -> float:
    """The time in the query, in seconds since the Unix epoch. Raises Invalid."""
    text = request.query.get("since", "0")
    try:
        since = float(text)
    except ValueError:
        since = math.nan
    if not 0 <= since < math.inf:
        raise Invalid(f"since: expected seconds since the Unix epoch, got {text[:40]!r}")
    return since


async def _first_retained(sources: ReadSources) -> int | None:
    """The lowest index in the journal; None if it is empty or its first five entries are unreadable."""
    oldest = await sources.etcd.range(sources.keys.journal, limit=_GARBAGE_MAX)
    for kv in oldest.kvs:
        with suppress(Garbage):
            return decode_entry(kv.value, kv.key).first
    return None
