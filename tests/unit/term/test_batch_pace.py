"""The pace of commits: sizes of batches and waiting times, by numbers alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.term.pacing.batch_pace import BatchPace

MIB = 1 << 20


def _disk(base_s: float, mib_s: float, size: int) -> float:
    """How long a commit of `size` bytes takes on a disk that needs `base_s` for each and writes `mib_s` a second."""
    return base_s + size / (mib_s * MIB)


def test_fast_batches_stay_as_large_as_possible() -> None:
    pace = BatchPace(256, MIB)
    for _ in range(100):
        pace.note_commit(pace.bytes, 0.01)
        pace.note_run(pace.commands, 0.01)
    assert (pace.commands, pace.bytes) == (256, MIB)


@pytest.mark.parametrize("mib_s", [4.0, 10.0, 50.0])
def test_large_batches_shrink_until_a_commit_takes_about_the_target(mib_s: float) -> None:
    """The bytes are what takes time here: batches shrink within a few commits, and stay about where they belong."""
    pace, took_s = BatchPace(256, 8 * MIB), []
    for _ in range(8):
        pace.note_commit(pace.bytes, _disk(0.002, mib_s, pace.bytes))
    for _ in range(300):
        took_s.append(_disk(0.002, mib_s, pace.bytes))
        pace.note_commit(pace.bytes, took_s[-1])
    assert max(took_s) < 0.07
    assert min(took_s) > 0.02
    assert pace.commands == 256


def test_a_slow_disk_keeps_batches_of_many_small_commands() -> None:
    """Each commit takes 300 ms, however small: small batches would divide the rate by sixteen."""
    pace = BatchPace(256, MIB)
    for _ in range(100):
        pace.note_commit(60_000, _disk(0.3, 1000.0, 60_000))
        pace.note_run(256, 0.02)
    assert (pace.commands, pace.bytes) == (256, MIB)


def test_slow_handlers_get_small_batches() -> None:
    """256 of these would take 2.5 s, for which every other command would wait."""
    pace = BatchPace(256, MIB)
    for _ in range(50):
        pace.note_run(pace.commands, 0.01 * pace.commands)
        assert pace.commands >= 16
    assert pace.commands * 0.01 <= 0.2


def test_one_run_that_waited_for_a_core_does_not_make_batches_smaller() -> None:
    """A thread may wait for 200 ms on a busy PC. Half as many commands a batch would then halve the rate."""
    pace = BatchPace(256, MIB)
    for _ in range(20):
        for took_s in (0.02, 0.02, 0.02, 0.02, 0.2):
            pace.note_run(pace.commands, took_s)
    assert pace.commands == 256


def test_one_slow_commit_is_forgotten() -> None:
    pace = BatchPace(256, MIB)
    pace.note_commit(MIB, 3.0)
    assert pace.bytes == MIB // 2
    for _ in range(20):
        pace.note_commit(10_000, 0.01)
    assert pace.bytes == MIB


def test_limits_below_the_least_batch_hold() -> None:
    pace = BatchPace(4, 1000)
    pace.note_commit(1000, 0.001)
    pace.note_commit(200_000, 9.0)
    pace.note_run(4, 9.0)
    assert (pace.commands, pace.bytes) == (4, 1000)


@given(
    st.lists(st.tuples(st.integers(1, 256), st.integers(1, 8 * MIB), st.floats(0.0, 100.0), st.booleans()), max_size=50)
)
def test_whatever_happens_batches_stay_within_their_limits(steps: list[tuple[int, int, float, bool]]) -> None:
    pace = BatchPace(256, 8 * MIB)
    for commands, size, took_s, was_full in steps:
        pace.note_commit(size, took_s)
        pace.note_run(commands, took_s)
        pace.note_batch(commands, took_s, was_full)
        assert 16 <= pace.commands <= 256
        assert 128 << 10 <= pace.bytes <= 8 * MIB
        assert pace.wait_s(0) == 0.0
        assert pace.wait_s(100) >= 0.0


def test_the_wait_is_that_of_full_batches() -> None:
    """A leader with little to do runs one command a batch. That says nothing about how long 1,000 would take."""
    pace = BatchPace(256, MIB)
    assert pace.wait_s(10_000) == 0.0
    for _ in range(50):
        pace.note_batch(1, 0.01, was_full=False)
    assert pace.wait_s(1000) == pytest.approx(1000 / 25_600)
    for _ in range(50):
        pace.note_batch(256, 0.1, was_full=True)
    assert pace.wait_s(2560) == pytest.approx(1.0, rel=0.05)
    for _ in range(50):
        pace.note_batch(10, 0.1, was_full=True)
    assert pace.wait_s(100) == pytest.approx(1.0, rel=0.05), "documents so large that ten fill a batch"


def test_a_pause_for_bytes_is_longer_for_more_commands() -> None:
    """Large documents must wait for etcd's memory, one after the other, also in batches that are not full."""
    pace = BatchPace(256, MIB)
    for _ in range(50):
        pace.note_pause(0.4)
        pace.note_batch(1, 0.41, was_full=False)
    assert pace.wait_s(10) == pytest.approx(4.0, rel=0.05)
    for _ in range(50):
        pace.note_batch(1, 0.01, was_full=False)
    assert pace.wait_s(1000) < 0.1, "the pauses are over"


def test_a_pause_of_another_commit_is_no_more_than_the_batch_took() -> None:
    """The adoption of a large configuration may pause too, and is not a batch of commands."""
    pace = BatchPace(256, MIB)
    pace.note_pause(100.0)
    pace.note_batch(1, 0.01, was_full=False)
    assert pace.wait_s(1) == pytest.approx(0.01)
