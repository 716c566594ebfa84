"""Divides etcd's quota among what a leader keeps in it. Pure.

While one snapshot is being written, etcd holds three of them. All three, the journal and the views take at most half of
the quota at any time. An eighth of the quota is for snapshots that operators keep. The rest is for what etcd keeps for
itself: old revisions until they are compacted, and free pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from nodestore.etcd.member_defaults import DEFAULT_SETTINGS

SNAPSHOTS = 3
"""Snapshots in etcd at a time: the two newest ones, and the one being written."""
_QUOTA_BYTES = int(DEFAULT_SETTINGS["quota-backend-bytes"])


@dataclass(frozen=True, kw_only=True)
class StoreBudget:
    """Limits in bytes. The defaults are those for the quota of nodectl's configuration files for etcd.

    ids_bytes_max: the results of commands that are remembered. The commands of one batch may exceed it.
    state_bytes_max: all documents, plus the specs of all nodes.
    journal_bytes_max: the journal. Beyond this, entries are truncated even if their command ids must still be known.
    config_history_bytes_max: the earlier configurations. The two newest versions are kept even if they are larger.
    kept_bytes_max, named_max: size and number of the snapshots that are kept under a name or for a restore.
    """

    ids_bytes_max: int = 16 << 20
    state_bytes_max: int = _QUOTA_BYTES // 32
    journal_bytes_max: int = 24 << 20
    config_history_bytes_max: int = _QUOTA_BYTES // 32
    kept_bytes_max: int = _QUOTA_BYTES // 8
    named_max: int = 32

    @classmethod
    def of_quota(cls, quota_bytes: int) -> Self:
        """The limits for this quota. In a large etcd, results and journal do not grow further."""
        return cls(
            ids_bytes_max=min(16 << 20, quota_bytes // 16),
            state_bytes_max=quota_bytes // 32,
            journal_bytes_max=min(48 << 20, quota_bytes * 3 // 32),
            config_history_bytes_max=min(32 << 20, quota_bytes // 32),
            kept_bytes_max=quota_bytes // 8,
        )

    @property
    def snapshot_every_bytes_max(self) -> int:
        """Growth of the journal after which a snapshot must be due, so that the journal can be truncated in time."""
        return self.journal_bytes_max // 3

    def peak_bytes(self, batch_bytes: int) -> int:
        """The most that snapshots, journal and views take together. batch_bytes: size of the results of one batch.

        The journal exceeds its limit by what is committed between two snapshots and by as much again while one is
        written. Documents are in each snapshot and in a view, specs only in a view.
        """
        journal = self.journal_bytes_max + 2 * self.snapshot_every_bytes_max
        return SNAPSHOTS * (self.ids_bytes_max + batch_bytes) + journal + (SNAPSHOTS + 1) * self.state_bytes_max
