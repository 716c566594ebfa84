"""Reads the commands that an export has not passed on yet, and notices gaps and restored stores.

A command is identified by the epoch in which it was committed and its index, and in every store these pairs ascend
along the journal. After a restore from a backup the journal continues in a new epoch, with indexes that were used
before. So what is not beyond the last exported pair is skipped, and everything else is new.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from masterd.api.audit_export.records import (
    CommandPosition,
    ExportRecord,
    command_record,
    gap_record,
    restored_record,
    unreadable_record,
)
from masterd.api.read_sources import ReadSources
from masterd.replication.journal_reader import read_entries
from nodestore.errors import Garbage
from nodestore.schema.records import JournalEntry
from nodestore.support.time_slices import TimeSlice

Hide = Callable[[Any], Any]
_ENTRIES_MAX = 64
_BYTES_MAX = 4 << 20
"""How much is read from etcd at a time, a page more or less."""
_PAGE = 8


@dataclass(frozen=True, slots=True)
class Exportable:
    """A record, and the position of the export after it. missing: how many commands it reports as missing."""

    record: ExportRecord
    position: CommandPosition
    missing: int = 0


@dataclass(frozen=True, slots=True)
class ExportBatch:
    """What was read. scanned: the index up to which the journal was read, also if nothing of it is to be exported."""

    items: list[Exportable]
    scanned: int


class JournalSource:
    """Reads the journal of one masterd. clock: seconds since 1970, for the records of gaps."""

    def __init__(self, sources: ReadSources, clock: Callable[[], float] = time.time) -> None:
        self._sources, self._clock = sources, clock
        self._cluster = sources.keys.cluster

    @property
    def epoch(self) -> int | None:
        """The epoch of the store; None while this masterd does not know its store or does not follow the journal."""
        return None if self._sources.replica.problem is not None else self._sources.replica.epoch

    @property
    def index(self) -> int:
        """The index of the last command."""
        return self._sources.replica.index

    async def wait(self, index: int, timeout_s: float) -> None:
        """Wait until the journal has reached this index. Raises TimedOut."""
        await self._sources.replica.wait_for(index, timeout_s)

    async def read(
        self, scanned: int, done: CommandPosition | None, repeat_after: CommandPosition | None = None
    ) -> ExportBatch:
        """Read some entries beyond the index `scanned`.

        done: the last command that was exported; None: none was. repeat_after: repeat those after this one, as far as
        they are still in the journal.
        """
        if scanned >= self.index:
            return ExportBatch([], scanned)
        hide = (await self._sources.secrets()).content
        items: list[Exportable] = []
        time_slice = TimeSlice()
        skipped = done if repeat_after is None else repeat_after
        for entry in await self._entries(scanned):
            at = done if not items else items[-1].position if done is None else max(done, items[-1].position)
            if isinstance(entry, _Unreadable):
                items.append(self._unreadable(entry, at))
                scanned = max(scanned, entry.index)
                continue
            for item in self._of_entry(entry, at, skipped, hide):
                items.append(item)
                await time_slice.yield_if_used_up()
            scanned = max(scanned, entry.last)
        return ExportBatch(items, scanned)

    async def _entries(self, scanned: int) -> list[JournalEntry | _Unreadable]:
        """The next entries, from memory if they are there. Only those that this masterd has applied."""
        recent = self._sources.replica.recent_after(scanned, _ENTRIES_MAX)
        if recent is not None:
            return list(recent)
        found: list[JournalEntry | _Unreadable] = []
        keys, size, last = self._sources.keys, 0, self.index
        async for kv, entry in read_entries(self._sources.etcd, keys, scanned + 1, last, _PAGE):
            if isinstance(entry, Garbage):
                with contextlib.suppress(ValueError):  # another program's key, which names no entry
                    found.append(_Unreadable(keys.entry_index(kv.key), str(entry)))
            elif entry.last <= last:
                found.append(entry)
            size += len(kv.value)
            if len(found) >= _ENTRIES_MAX or size >= _BYTES_MAX:
                break
        return found

    def _of_entry(
        self, entry: JournalEntry, done: CommandPosition | None, skipped: CommandPosition | None, hide: Hide
    ) -> Iterator[Exportable]:
        yield from self._before(entry, done)
        for record in entry.commands:
            position = CommandPosition(entry.epoch, record.index)
            if skipped is None or position > skipped:
                yield Exportable(command_record(self._cluster, record, entry, hide), position)

    def _before(self, entry: JournalEntry, done: CommandPosition | None) -> Iterator[Exportable]:
        """Records of what is missing between the last exported command and this entry."""
        first, now = CommandPosition(entry.epoch, entry.first), self._clock()
        if done is None:
            if entry.first > 1:  # what was truncated before the export began is no loss of the export
                yield Exportable(
                    gap_record(self._cluster, now, None, first, entry.first - 1), CommandPosition(entry.epoch, 0)
                )
        elif entry.epoch > done.epoch:
            yield Exportable(restored_record(self._cluster, now, done, entry.epoch), done)
            if entry.first > done.index + 1:
                yield Exportable(gap_record(self._cluster, now, done, first, None), done, entry.first - done.index - 1)
        elif entry.epoch == done.epoch and entry.first > done.index + 1:
            count = entry.first - done.index - 1
            yield Exportable(gap_record(self._cluster, now, done, first, count), done, count)

    def _unreadable(self, entry: _Unreadable, done: CommandPosition | None) -> Exportable:
        position = CommandPosition(self.epoch or 0, entry.index)
        record = unreadable_record(self._cluster, self._clock(), entry.problem)
        return Exportable(record, position if done is None else max(done, position))


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """An entry that cannot be decoded. index: of its last command, as its key says."""

    index: int
    problem: str
