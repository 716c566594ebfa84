"""When a snapshot is due."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from masterd.replication.replica import Replica
from masterd.term.publisher import Publisher
from masterd.term.retention import JournalRetention, RetentionSettings
from nodestore.cluster.election import Fence
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Term

_RETENTION = RetentionSettings(snapshot_every_commands=100, snapshot_every_bytes=10_000, journal_bytes_max=48 << 20)


def _housekeeping(index: int, seen_bytes: int, snapshot_bytes: int) -> Any:
    replica = Replica(cast(Etcd, None), Keys("test"))
    replica.state.index, replica.bytes_seen = index, seen_bytes
    fence = Fence(Term(1, 7), 1, "nonce")
    found: Any = JournalRetention(fence, replica, cast(Publisher, None), _RETENTION, time.time)
    found._last_index, found._snapshot_bytes = 0, snapshot_bytes
    return found


@pytest.mark.parametrize(
    ("index", "seen_bytes", "snapshot_bytes", "due"),
    [
        (99, 9_999, 0, False),
        (100, 5_000, 0, True),
        (1, 10_000, 0, True),
        (0, 0, 0, False),
        (100, 5_000, 1 << 20, True),  # a small one costs nothing
        (5_000, 4 << 20, 20 << 20, False),  # it would be five times what it saves
        (5_000, 10 << 20, 20 << 20, True),
        (5_000, 15 << 20, 500 << 20, False),
        (5_000, 16 << 20, 500 << 20, True),  # the journal has its bound all the same
    ],
)
def test_a_snapshot_is_due_when_it_is_worth_it(index: int, seen_bytes: int, snapshot_bytes: int, due: bool) -> None:
    """After so many commands or bytes; a large one not before the journal has grown by half of its size."""
    assert _housekeeping(index, seen_bytes, snapshot_bytes)._is_snapshot_due() is due
