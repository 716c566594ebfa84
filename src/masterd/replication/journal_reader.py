"""Entries of the journal that are read from etcd for somebody who asks: no more than it takes, and in turns.

An entry is named by the last index it holds, and holds up to 256 commands. So those that hold some indexes are the ones
named by an index among them, and one more: the next, which holds the last of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from nodestore.errors import Garbage, Invalid, TooLarge
from nodestore.etcd.session import KV, Etcd
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Entry
from nodestore.support.time_slices import TimeSlice

_PAGE = 100
_BEYOND_MAX = 5
"""Keys looked at for the entry that holds the last index: unreadable ones may come before it."""
_READ_S = 5.0


async def read_entries(
    etcd: Etcd, keys: Keys, first: int, last: int, page: int = _PAGE
) -> AsyncGenerator[tuple[KV, Entry | Garbage], None]:
    """The retained entries that hold the indexes from `first` to `last`, in their order; for what is unreadable, why.
    They may begin later than `first`, after a truncation, and hold more than was asked for. `page`: so many are read
    at a time; taking up an answer of etcd's is one step."""
    if not 0 < first <= last:
        raise Invalid(f"there are no indexes from {first} to {last}")
    turns = TimeSlice()
    async for kv in _fetch_range(etcd, keys, first, last, page):
        entry = _read(kv)
        yield kv, entry
        if isinstance(entry, Entry) and entry.last >= last:
            return
        await turns.yield_if_used_up()


def _read(kv: KV) -> Entry | Garbage:
    try:
        return decode_entry(kv.value, kv.key)
    except Garbage as error:
        return error


async def _fetch_range(etcd: Etcd, keys: Keys, first: int, last: int, page: int) -> AsyncGenerator[KV, None]:
    """The keys from `first` to below `last`, then a few more, one at a time. No limit is ever 0, which is none."""
    begin, end, page = keys.entry(first).encode(), keys.entry(last).encode(), max(1, min(page, last - first))
    while begin < end:
        try:
            part = await etcd.range(begin, end=end, limit=page, timeout_s=_READ_S)
        except TooLarge:
            if page == 1:
                raise
            page = max(1, page // 4)
            continue
        for kv in part.kvs:
            yield kv
        begin = part.next_start if part.has_more else end
    for _ in range(_BEYOND_MAX):
        part = await etcd.range(begin, end=prefix_end(keys.journal), limit=1, timeout_s=_READ_S)
        for kv in part.kvs:
            yield kv
        if not part.has_more:
            return
        begin = part.next_start
