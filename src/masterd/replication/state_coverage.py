"""Finds out whether snapshots and journal in etcd still hold the state that this leader has in memory.

Standbys hold the state in memory too, so nothing fails while another program deletes journal entries or snapshots. But
after the masterds have restarted, the state could not be rebuilt. So the leader checks it while memory has it.
Only names and revisions of keys are read: an entry is written once, and the leader knows the last index of each.
"""

from __future__ import annotations

from contextlib import aclosing

from masterd.replication.replica import Replica

_PAGE_KEYS = 1_000
_NAMED_MAX = 3


async def find_gap(replica: Replica) -> str | None:
    """Describe what is missing in etcd to rebuild the state of the present index; None if nothing is."""
    index = replica.index
    names: set[str] = set()
    base = 0
    async with aclosing(replica.snapshots.whole()) as snapshots:
        async for name, manifest in snapshots:
            names.add(name)
            if manifest.has_ids and manifest.index <= index:
                base = max(base, manifest.index)
    if base < replica.sizes_known_after:
        return f"no whole snapshot of index {replica.sizes_known_after} or above is in etcd"
    lost = [name for at, name in replica.state.restores.items() if at > base and name not in names]
    if lost:
        return f"snapshot {lost[0]}, which a journal entry restores, is not whole in etcd"
    expected = {last for last, _ in replica.entry_sizes if base < last <= index}
    missing = sorted(expected - await _entries_in_store(replica, base, index))
    if not missing:
        return None
    named = ", ".join(map(str, missing[:_NAMED_MAX])) + (", ..." if len(missing) > _NAMED_MAX else "")
    return f"{len(missing)} journal entries were deleted or changed by another program (index {named})"


async def _entries_in_store(replica: Replica, base: int, index: int) -> set[int]:
    """The last indexes of the entries in etcd after `base` up to `index` that were written once."""
    keys, found = replica.keys, set[int]()
    begin, end = keys.entry(base + 1).encode(), keys.entry(index + 1).encode()
    while begin < end:
        page = await replica.etcd.range(begin, end=end, limit=_PAGE_KEYS, keys_only=True, timeout_s=5.0)
        for kv in page.kvs:
            try:
                last = keys.entry_index(kv.key)
            except ValueError:
                continue
            if kv.version == 1:
                found.add(last)
        if not page.has_more:
            break
        begin = page.next_start
    return found
