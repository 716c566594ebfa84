"""How many bytes a leader may write to etcd, for each entry of its raft log and in each second. Pure.

An etcd member keeps thousands of the newest entries of its raft log in memory, however large they are. Time removes
none of them: only newer entries do. So what bounds this memory is not bytes a second, but bytes an entry. And it keeps
every version of every key in its database until they are compacted, about once a minute: this is what bounds the bytes
a second. Both limits are token buckets: each commit takes its size out of them.
"""

from __future__ import annotations

import math

ENTRIES = 6_000
"""How many entries a member keeps at most: 5,000, which is fixed in etcd 3.5, and the shipped snapshot-count."""
BYTES_MAX = 32 << 20
"""What these entries may weigh together in the long run. With the database, which is mapped into memory, and etcd's
garbage collection, a member stays below 400 MB."""
BYTES_A_SECOND = 1 << 20
"""Rate limit of large commands. In the minute between two compactions it allows a quarter of the database's quota, as
shipped."""
SMALL_COMMAND_BYTES = 2 << 10
"""So many bytes of each command do not count toward the rate: small commands are limited by the time they take."""
TOGETHER = 32
"""Small entries become due only when so many are owed. One by one, or three at a commit, each takes several times the
CPU time of etcd and of the leader. The members keep less than 200 kB more in memory for that."""
BURST_BYTES = 12 << 20
"""How much may be written at once, after a time with little to do."""


class LogCredit:
    """Computes how many small entries must be written, so that the large ones leave the memory of etcd's members."""

    def __init__(
        self, entries: int = ENTRIES, bytes_max: int = BYTES_MAX, burst: int = BURST_BYTES, together: int = TOGETHER
    ) -> None:
        self._share, self._debt_max, self._burst = bytes_max / entries, bytes_max, burst
        self._together = together
        self._credit = float(burst)
        self._revision: int | None = None

    def note_commit(self, size: int, revision: int) -> None:
        """Note a commit of `size` bytes at this revision of etcd. Each revision since the previous commit was an
        entry too."""
        others = 0 if self._revision is None else max(0, revision - self._revision - 1)
        self._revision = max(revision, self._revision or 0)
        self._add(self._share * (1 + others) - size)

    def note_small_entries(self, count: int) -> None:
        """Note that so many entries without content were written. They have no revisions."""
        self._add(self._share * count)

    @property
    def entries_due(self) -> int:
        """How many small entries must be written before the next commit; 0 if there is credit, or little debt."""
        owed = math.ceil(-self._credit / self._share)
        return owed if owed >= self._together else 0

    def _add(self, bytes_: float) -> None:
        self._credit = min(self._burst, max(-self._debt_max, self._credit + bytes_))


class ByteRate:
    """Limits the bytes a second. Each method takes the time of a monotonic clock."""

    def __init__(self, bytes_a_second: float = BYTES_A_SECOND, burst: float = BURST_BYTES) -> None:
        self._rate, self._burst = bytes_a_second, burst
        self._credit = float(burst)
        self._at: float | None = None

    def note_commit(self, commands: int, size: int, now: float) -> None:
        """Note a commit of so many commands, `size` bytes together with their views."""
        self._refill(now)
        self._credit -= max(0, size - commands * SMALL_COMMAND_BYTES)

    def pause_s(self, now: float) -> float:
        """How long the next commit must wait, in seconds; 0 if it may begin."""
        self._refill(now)
        return max(0.0, -self._credit / self._rate)

    def _refill(self, now: float) -> None:
        elapsed_s = 0.0 if self._at is None else max(0.0, now - self._at)
        self._credit, self._at = min(self._burst, self._credit + elapsed_s * self._rate), now
