"""Reads entries of the journal from etcd by index, no more than necessary, and in time slices.

The key of an entry is the last index that it holds, and an entry holds up to 256 commands. So the entries that
hold a range of indexes are those whose keys are in the range, and the first one after them: it may begin inside the
range, although its key is beyond it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from nodestore.errors import Garbage, Invalid, TooLarge
from nodestore.etcd.session import KV, Etcd
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.records import JournalEntry
from nodestore.support.time_slices import TimeSlice

_PAGE = 100
_BEYOND_MAX = 5
"""How many keys beyond the range are read at most, to find the entry that holds the last index. More than one, because
unreadable entries may precede it."""
_READ_S = 5.0


async def read_entries(
    etcd: Etcd, keys: Keys, first: int, last: int, page: int = _PAGE
) -> AsyncGenerator[tuple[KV, JournalEntry | Garbage], None]:
    """The retained entries that hold the indexes from `first` to `last`, in order; a Garbage for an unreadable one.

    After a truncation they may begin later than `first`. The first and the last one may also hold indexes outside the
    range. page: entries per request to etcd. Invalid if the range is empty or begins below 1.
    """
    if not 0 < first <= last:
        raise Invalid(f"there are no indexes from {first} to {last}")
    time_slice = TimeSlice()
    async for kv in _fetch_range(etcd, keys, first, last, page):
        entry = _read(kv)
        yield kv, entry
        if not isinstance(entry, Garbage) and entry.last >= last:
            return
        await time_slice.yield_if_used_up()


def _read(kv: KV) -> JournalEntry | Garbage:
    try:
        return decode_entry(kv.value, kv.key)
    except Garbage as error:
        return error


async def _fetch_range(etcd: Etcd, keys: Keys, first: int, last: int, page: int) -> AsyncGenerator[KV, None]:
    """The keys from `first` to below `last`, then up to five more, one at a time."""
    # The limit is at least 1: etcd takes 0 as no limit.
    begin, end, page = keys.entry(first).encode(), keys.entry(last).encode(), max(1, min(page, last - first))
    while begin < end:
        try:
            response = await etcd.range(begin, end=end, limit=page, timeout_s=_READ_S)
        except TooLarge:
            if page == 1:
                raise
            page = max(1, page // 4)
            continue
        for kv in response.kvs:
            yield kv
        begin = response.next_start if response.has_more else end
    for _ in range(_BEYOND_MAX):
        response = await etcd.range(begin, end=prefix_end(keys.journal), limit=1, timeout_s=_READ_S)
        for kv in response.kvs:
            yield kv
        if not response.has_more:
            return
        begin = response.next_start
