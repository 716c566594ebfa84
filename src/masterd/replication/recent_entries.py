"""The newest journal entries, as bytes, for clients that follow the journal over HTTP."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.records import JournalEntry

_ENTRIES_MAX = 512
_BYTES_MAX = 2 << 20
"""Limits of what is kept. Older entries are read from etcd."""


class _Kept(NamedTuple):
    first: int
    last: int
    raw: bytes


class RecentEntries:
    """Consecutive entries up to the newest one that was added. Kept as bytes, which take a tenth of the memory."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._bytes = 0

    def add(self, entry: JournalEntry, raw: bytes) -> None:
        """Add the newest entry; forget all others if it does not follow them."""
        if self._kept and self._kept[-1].last + 1 != entry.first:
            self.clear()
        self._kept.append(_Kept(entry.first, entry.last, raw))
        self._bytes += len(raw)
        while len(self._kept) > _ENTRIES_MAX or self._bytes > _BYTES_MAX:
            self._bytes -= len(self._kept.popleft().raw)

    def between(self, index: int, last: int, entries_max: int) -> list[JournalEntry] | None:
        """The oldest entries after `index`, at most `entries_max`. None unless all entries up to `last` are kept."""
        if not self._kept or self._kept[0].first > index + 1 or self._kept[-1].last != last:
            return None
        wanted = [kept for kept in self._kept if kept.last > index]
        return [decode_entry(kept.raw, f"entry {kept.last}") for kept in wanted[:entries_max]]

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0
