"""Pauses between attempts that fail in a row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodestore.support.backoff import Backoff, grown_s


@pytest.mark.parametrize(
    ("first_s", "most_s", "factor", "expected_s"),
    [
        (0.1, 2.0, 2.0, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]),
        (0.2, 5.0, 2.0, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]),
        (0.05, 0.15, 1.5, [0.05, 0.075, 0.1125, 0.15, 0.15]),
        (0.05, 0.05, 2.0, [0.05, 0.05]),
        (3.0, 2.0, 2.0, [2.0, 2.0]),  # never more than the limit
        (0.0, 2.0, 2.0, [0.0, 0.0]),
    ],
)
def test_pauses_grow_up_to_the_limit(first_s: float, most_s: float, factor: float, expected_s: list[float]) -> None:
    backoff = Backoff(first_s, most_s, factor=factor)
    assert [backoff.next_s() for _ in expected_s] == pytest.approx(expected_s)


def test_a_success_begins_with_the_first_pause_again() -> None:
    """The failures since then are counted."""
    backoff = Backoff(0.1, 2.0)
    for _ in range(5):
        backoff.next_s()
    assert backoff.failures == 5
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next_s() == 0.1
    assert backoff.failures == 1


def test_jitter_is_drawn_anew_for_each_pause() -> None:
    """It shortens the pause that is given out, not the ones that follow."""
    factors = iter([0.5, 1.0, 0.75])
    backoff = Backoff(1.0, 10.0, jitter=lambda: next(factors))
    assert [backoff.next_s() for _ in range(3)] == [0.5, 2.0, 3.0]


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e6), st.integers(0, 10_000), st.sampled_from([1.0, 1.5, 2.0, 10.0]))
def test_a_pause_is_bounded_and_never_shrinks(first_s: float, most_s: float, times: int, factor: float) -> None:
    """However many failures there are in a row: an outage may last for days."""
    pause_s = grown_s(first_s, most_s, times, factor=factor)
    assert min(first_s, most_s) <= pause_s <= most_s
    assert pause_s <= grown_s(first_s, most_s, times + 1, factor=factor)
