"""Reading entries by index: exactly those that hold the indexes, also in a truncated or damaged journal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from masterd.replication import journal_reader
from masterd.replication.journal_reader import read_entries
from masterd.term import archive as archives
from masterd.term.archive import SnapshotArchive
from nodestore.cluster.election import Fence
from nodestore.errors import Garbage, Invalid, NotFound, TooLarge
from nodestore.etcd.session import KV, Range
from nodestore.schema.keys import Keys
from nodestore.schema.models import CommandRecord, Entry, Term
from nodestore.support.time_slices import TimeSlice

KEYS = Keys("test")


def _entry(first: int, last: int) -> bytes:
    commands = tuple(
        CommandRecord(index=index, id=f"c{index}", actor="a", time=0.0, name="do") for index in range(first, last + 1)
    )
    return Entry(epoch=1, term=1, nonce="x", commands=commands).encode()


class Journal:
    """What etcd answers, and what it was asked."""

    def __init__(self, *entries: tuple[int, int], weight: int = 0) -> None:
        self.kvs = {KEYS.entry(last).encode(): _entry(first, last) for first, last in entries}
        self.limits: list[int] = []
        self.sent = 0
        self.most = weight

    async def range(self, start: bytes, *, end: bytes, limit: int, timeout_s: float) -> Range:
        """As a session does: 0 is no limit."""
        self.limits.append(limit)
        found = sorted(key for key in self.kvs if start <= key < end)
        if self.most and min(limit or len(found), len(found)) > self.most:
            raise TooLarge("etcd's answer is too large")
        part = found[:limit] if limit else found
        self.sent += len(part)
        kvs = tuple(KV(key.decode(), self.kvs[key], 1, 1, 1, 0) for key in part)
        return Range(1, kvs, len(part) < len(found), len(found), part[-1] + b"\0" if part else b"")


async def _read(journal: Any, first: int, last: int) -> list[tuple[int, int] | str]:
    return [
        (entry.first, entry.last) if not isinstance(entry, Garbage) else kv.key.removeprefix(KEYS.journal)
        async for kv, entry in read_entries(journal, KEYS, first, last)
    ]


TENS = [(first, first + 9) for first in range(1, 2_000, 10)]


@pytest.mark.parametrize(
    ("first", "last", "holding"),
    [
        (1, 1, [(1, 10)]),
        (10, 10, [(1, 10)]),
        (10, 11, [(1, 10), (11, 20)]),
        (15, 35, [(11, 20), (21, 30), (31, 40)]),
        (1_995, 2_000, [(1_991, 2_000)]),
        (1_995, 3_000, [(1_991, 2_000)]),
        (2_001, 3_000, []),
    ],
)
async def test_the_entries_that_hold_the_indexes_are_read(
    first: int, last: int, holding: list[tuple[int, int]]
) -> None:
    """Only the entries that hold the requested indexes are requested from etcd."""
    journal = Journal(*TENS)
    assert await _read(journal, first, last) == holding
    assert journal.sent == len(holding)
    assert 0 not in journal.limits


async def test_a_truncated_journal_sends_one_entry_too_many() -> None:
    """If the requested indexes were truncated, the first retained entry is returned."""
    journal = Journal((5_001, 5_010), (5_011, 5_020), (5_021, 5_030))
    assert await _read(journal, 1, 100) == [(5_001, 5_010)]
    assert journal.sent == 1


@pytest.mark.parametrize(("first", "last"), [(1, 0), (0, 1), (-5, 5), (7, 6)])
async def test_no_indexes_are_refused(first: int, last: int) -> None:
    """An empty range of indexes is refused, as a limit of 0 would read the whole journal."""
    journal = Journal(*TENS)
    with pytest.raises(Invalid):
        await _read(journal, first, last)
    assert journal.limits == []


async def test_garbage_is_told_and_passed_over() -> None:
    """An unreadable entry is returned as Garbage, and the readable ones after it are returned up to a bound."""
    journal = Journal(*TENS)
    journal.kvs[KEYS.entry(20).encode()] = b"{"
    assert await _read(journal, 5, 25) == [(1, 10), f"{20:016d}", (21, 30)]
    assert await _read(journal, 15, 20) == [f"{20:016d}", (21, 30)]
    for extra in range(10):
        journal.kvs[KEYS.entry(20).encode() + b"%d" % extra] = b"{"
    assert len(await _read(journal, 15, 20)) == journal_reader._BEYOND_MAX


async def test_large_entries_are_read_a_few_at_a_time() -> None:
    """A page that exceeds the size of a message is read in smaller pages."""
    journal = Journal(*[(index, index) for index in range(1, 301)], weight=7)
    assert await _read(journal, 1, 290) == [(index, index) for index in range(1, 291)]
    with pytest.raises(TooLarge):
        await _read(TooHeavy((1, 1), (2, 2)), 1, 2)


class TooHeavy(Journal):
    async def range(self, start: bytes, *, end: bytes, limit: int, timeout_s: float) -> Range:
        raise TooLarge("etcd's answer is too large")


async def test_unreadable_is_an_answer() -> None:
    """An unreadable entry is returned with the reason."""
    journal: Any = Journal()
    journal.kvs[KEYS.entry(3).encode()] = b"{"
    found = [entry async for _, entry in read_entries(journal, KEYS, 1, 3)]
    assert len(found) == 1
    assert isinstance(found[0], Garbage)


# --- the image of an index ---


def _archive(journal: Journal, index: int) -> Any:
    async def manifests() -> dict[str, Any]:
        return {}

    replica = SimpleNamespace(
        etcd=journal, keys=KEYS, state=SimpleNamespace(index=index), snapshots=SimpleNamespace(manifests=manifests)
    )
    housekeeping: Any = SimpleNamespace(replica=replica)
    return SnapshotArchive(Fence(Term(1, 1), 1, "n"), housekeeping)


async def test_the_image_of_an_index_takes_the_entries_up_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image of an index uses the entries up to it and yields to the event loop after each one."""
    turns = 0

    class Counted(TimeSlice):
        async def yield_if_used_up(self) -> None:
            nonlocal turns
            turns += 1

    monkeypatch.setattr(archives, "TimeSlice", Counted)
    journal = Journal(*TENS)
    image = await _archive(journal, 2_000).image_at(995)
    assert (image.index, len(image.ids)) == (995, 995)
    assert journal.sent == 100
    assert turns >= 100


@pytest.mark.parametrize("index", [0, 2_001, 15])
async def test_an_index_that_is_not_kept_has_no_image(index: int) -> None:
    """An index before the first entry, after the last, or truncated has no image."""
    journal = Journal(*TENS[10:])
    with pytest.raises(NotFound):
        await _archive(journal, 2_000).image_at(index)
    assert journal.sent <= 1
