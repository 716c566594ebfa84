"""How many bytes etcd is given to keep in memory: by numbers alone."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.term.pacing.log_credit import (
    BURST_BYTES,
    BYTES_A_SECOND,
    BYTES_MAX,
    ENTRIES,
    SMALL_COMMAND_BYTES,
    TOGETHER,
    ByteRate,
    LogCredit,
)
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS

_CATCH_UP_ENTRIES = 5_000  # in etcd 3.5: a constant of its server


def test_it_counts_with_the_entries_that_a_shipped_member_keeps() -> None:
    assert int(DEFAULT_SETTINGS["snapshot-count"]) + _CATCH_UP_ENTRIES == ENTRIES


@given(st.lists(st.integers(1, 8 << 20), min_size=1, max_size=60))
def test_what_a_member_keeps_is_bounded(sizes: list[int]) -> None:
    """The newest entries of the raft log never weigh more than the limit, the burst and one commit together."""
    credit, log = LogCredit(), deque[int](maxlen=ENTRIES)
    for revision, size in enumerate(sizes, 1):
        due = credit.entries_due
        log.extend([0] * due)
        credit.note_small_entries(due)
        assert credit.entries_due <= 1
        log.append(size)
        credit.note_commit(size, revision)
        assert sum(log) <= BYTES_MAX + BURST_BYTES + size + (1 << 20)


def test_small_commits_need_no_further_entries() -> None:
    credit = LogCredit()
    for revision in range(1, 10_000):
        credit.note_commit(4_000, revision)
        assert credit.entries_due == 0


def test_small_entries_are_written_together() -> None:
    """Commits of many commands owe a few each. They become due when enough are owed, and then all of them."""
    credit, due = LogCredit(burst=0), list[int]()
    for revision in range(1, 1_001):
        credit.note_commit(20_000, revision)
        if count := credit.entries_due:
            due.append(count)
            credit.note_small_entries(count)
    assert min(due) >= TOGETHER
    assert max(due) <= TOGETHER + 3
    assert sum(due) == pytest.approx(1_000 * (20_000 / (BYTES_MAX / ENTRIES) - 1), abs=TOGETHER)


def test_what_others_write_turns_the_log_over_too() -> None:
    credit = LogCredit()
    credit.note_commit(BURST_BYTES + (1 << 20), 1)
    due = credit.entries_due
    assert due > 100
    credit.note_commit(1, 101)
    assert credit.entries_due == pytest.approx(due - 100, abs=2)


def test_etcd_that_takes_no_entries_leaves_a_bounded_debt() -> None:
    credit = LogCredit()
    for revision in range(1, 1_000):
        credit.note_commit(8 << 20, revision)
    assert credit.entries_due <= ENTRIES


def test_large_documents_are_taken_at_a_rate() -> None:
    """After a burst, as many bytes a second as the limit says."""
    rate, now, written = ByteRate(), 100.0, 0
    while now < 400.0:
        now += rate.pause_s(now)
        rate.note_commit(1, 400_000, now)
        written += 400_000
    assert written == pytest.approx(BURST_BYTES + 300 * BYTES_A_SECOND, rel=0.02)


def test_small_commands_are_not_limited_by_their_bytes() -> None:
    rate = ByteRate()
    for _ in range(10_000):
        rate.note_commit(256, 256 * SMALL_COMMAND_BYTES, 0.0)
        assert rate.pause_s(0.0) == 0.0


def test_a_pause_ends() -> None:
    rate = ByteRate()
    rate.note_commit(1, BURST_BYTES + (8 << 20), 0.0)
    pause_s = rate.pause_s(0.0)
    assert pause_s == pytest.approx((8 << 20) / BYTES_A_SECOND, rel=0.01)
    assert rate.pause_s(pause_s / 2) == pytest.approx(pause_s / 2)
    assert rate.pause_s(pause_s + 0.001) == 0.0
