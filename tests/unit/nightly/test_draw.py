"""A run with a time limit has the same jobs for the same seed, fits into its time, and names what it leaves out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.nightly.draw import draw
from tests.nightly.jobs import Job, load

JOBS = load()
CI_S = 360.0
"""What `.ci/run` has for all jobs together."""


def job(name: str, seconds: int) -> Job:
    return Job(name, "loads", "pytest", seconds, "why")


LISTS = st.lists(st.integers(1, 300), max_size=20).map(
    lambda times: [job(f"j{number}", seconds) for number, seconds in enumerate(times)]
)


@given(LISTS, st.text(), st.integers(0, 1_000))
def test_what_is_drawn_fits_and_all_else_is_left_out(jobs: list[Job], seed: str, limit_s: int) -> None:
    drawn = draw(jobs, seed, limit_s)
    assert sum(one.seconds for one in drawn.chosen) <= limit_s
    assert sorted([one.id for one in drawn.chosen] + [entry.job.id for entry in drawn.left_out]) == sorted(
        one.id for one in jobs
    )


@given(LISTS, st.text(), st.integers(0, 1_000))
def test_no_job_that_still_fits_is_left_out(jobs: list[Job], seed: str, limit_s: int) -> None:
    drawn = draw(jobs, seed, limit_s)
    left_s = limit_s - sum(one.seconds for one in drawn.chosen)
    assert all(entry.job.seconds > left_s for entry in drawn.left_out)


@given(LISTS, st.text(), st.randoms(use_true_random=False))
def test_the_order_of_the_list_decides_nothing(jobs: list[Job], seed: str, dice: object) -> None:
    """A job that is moved within the file does not change which ones a commit runs."""
    assert draw(jobs, seed, 400.0) == draw(jobs[::-1], seed, 400.0)


def test_the_reason_names_the_time() -> None:
    (left_out,) = draw([job("long", 90)], "abc", 60.0).left_out
    assert left_out.reason == "takes 90 s, and 60 s of 60 s were left"


def test_seeds_differ_and_each_job_is_drawn_by_some_commit() -> None:
    """In CI's time each job of the list comes up."""
    drawn = [draw(JOBS, str(seed), CI_S) for seed in range(200)]
    assert len({tuple(one.id for one in part.chosen) for part in drawn}) > 50
    often = {one.id: sum(one in part.chosen for part in drawn) for one in JOBS}
    assert {name: count for name, count in often.items() if count < 4} == {}  # at least one commit in 50
