"""Runs with heartbeats take every branch of the protocol, and no checker finds anything in them."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.simulation.branches.failovers import Failovers
from tests.simulation.branches.taken import BRANCHES, Branches
from tests.simulation.storm import RunResult, run_seed

SEEDS = range(12)


@pytest.fixture(scope="module")
def results() -> list[RunResult]:
    """The runs of all seeds."""
    return [run_seed(seed, Failovers) for seed in SEEDS]


def test_nothing_is_wrong_in_runs_with_heartbeats(results: list[RunResult], capsys: pytest.CaptureFixture[str]) -> None:
    """Prints for each run which branches it took."""
    for result in results:
        with capsys.disabled():
            sys.stdout.write(f"\nseed {result.seed}: {_taken(result.branches)}\n")
        assert not result.wrong, "\n".join([f"seed {result.seed}", *result.log, str(result.wrong)])


def test_the_seeds_together_take_every_branch(results: list[RunResult]) -> None:
    """A branch that no run takes is one that no checker judges."""
    taken = sum((result.branches.taken for result in results), Counter[str]())
    assert [branch for branch in BRANCHES if not taken[branch]] == []


def _taken(branches: Branches) -> str:
    return ", ".join(f"{branch} {branches.taken[branch]}" for branch in BRANCHES if branches.taken[branch])
