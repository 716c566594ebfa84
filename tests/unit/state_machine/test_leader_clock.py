"""The leader's time: it goes on from the last committed one, and follows the clocks of the PCs slowly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.state_machine.batch import TIME_RESET
from masterd.state_machine.leader_clock import PULL_MAX, LeaderClock
from nodestore.errors import Invalid
from tests.support.toy_app import Line


class _Clocks:
    """A monotonic clock and the clocks of the PCs, both set by hand."""

    def __init__(self, target: float = 1000.0) -> None:
        self.monotonic, self.target = 50.0, target

    def clock(self, committed: float, known: float | None = None) -> LeaderClock:
        return LeaderClock(committed, known, lambda: self.monotonic, lambda: self.target)

    def pass_s(self, seconds: float) -> None:
        self.monotonic += seconds
        self.target += seconds


def test_it_goes_on_from_the_last_committed_time() -> None:
    clocks = _Clocks(target=1000.0)
    clock = clocks.clock(999.0, known=999.5)
    assert clock.now() == 999.5


def test_the_first_time_of_a_store_is_that_of_the_clocks() -> None:
    assert _Clocks(target=1000.0).clock(0.0).now() == 1000.0


def test_after_a_pause_of_unknown_length_it_goes_forward_to_the_clocks_and_never_back() -> None:
    assert _Clocks(target=9_000.0).clock(1_000.0).now() == 9_000.0
    assert _Clocks(target=10.0).clock(1_000.0).now() == 1_000.0


def test_a_clock_that_jumps_changes_it_by_a_tenth_of_the_elapsed_time_at_most() -> None:
    clocks = _Clocks(target=1000.0)
    clock = clocks.clock(1000.0, known=1000.0)
    clocks.target += 86_400
    clocks.pass_s(10)
    assert clock.now() == 1011.0
    clocks.target -= 2 * 86_400
    clocks.pass_s(10)
    assert clock.now() == 1020.0


def test_a_small_difference_is_corrected_and_not_exceeded() -> None:
    clocks = _Clocks(target=1001.0)
    clock = clocks.clock(1000.0, known=1000.0)
    clocks.pass_s(100)
    assert clock.now() == clocks.target


def test_a_large_difference_is_a_problem_that_names_the_remedy() -> None:
    clocks = _Clocks(target=1000.0)
    clock = clocks.clock(1000.0, known=1000.0)
    assert clock.problem is None
    clocks.target -= 3600
    assert "3600 s ahead" in (clock.problem or "")
    assert "nodectl time reset" in (clock.problem or "")
    clock.set(clocks.target)
    assert clock.problem is None
    assert clock.now() == clocks.target


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6)), max_size=30))
def test_it_neither_stands_still_nor_jumps(steps: list[tuple[float, float]]) -> None:
    clocks = _Clocks(target=1e6)
    clock = clocks.clock(1e6, known=1e6)
    before = clock.now()
    for elapsed, jump in steps:
        clocks.pass_s(elapsed)
        clocks.target += jump
        now = clock.now()
        assert (1 - PULL_MAX) * elapsed - 1e-3 <= now - before <= (1 + PULL_MAX) * elapsed + 1e-3
        before = now


@pytest.mark.parametrize("time", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_not_committed(time: float) -> None:
    """It has no notation in JSON: replicas would read null in its place."""
    line = Line("n1")
    batch = line.batch()
    with pytest.raises(Invalid, match="no time"):
        batch.reset_time(line.request(TIME_RESET), time)
    assert batch.records == []
