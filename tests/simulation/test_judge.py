"""The simulation detects every guarantee that is removed from masterd.

The guarantees have no switch, so the tests patch private functions of the modules that implement them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from masterd.state_machine.batch import Batch
from masterd.state_machine.state import State
from masterd.term import journal, publisher
from masterd.term.journal import CommitFate, Journal
from masterd.term.publisher import Publisher
from masterd.term.repair.store_repair import StoreRepair
from nodestore.cluster.election import Fence
from tests.simulation.faults import CallFault
from tests.simulation.runs import run_with_fault

Patch = pytest.MonkeyPatch


def no_deduplication(patch: Patch) -> None:
    patch.setattr(Batch, "_earlier_outcome", lambda self, request: None)


def no_fence(patch: Patch) -> None:
    patch.setattr(Fence, "compares", lambda self, keys: [])


def unknown_counts_as_never(patch: Patch) -> None:
    original = Journal._fate

    def fate(self: Journal, commit: Any, evidence: Any) -> CommitFate:
        result = original(self, commit, replace(evidence, entry=None))  # the entry would decide
        return CommitFate.TERM_OVER if result is CommitFate.UNKNOWN else result

    patch.setattr(Journal, "_fate", fate)


def views_are_not_finished(patch: Patch) -> None:
    async def finish(self: Publisher, applied: Any, state: State, *_: Any) -> None:
        self.complete_up_to = state.index

    patch.setattr(Publisher, "finish_views", finish)
    _no_repair(patch)


def _no_repair(patch: Patch) -> None:
    """The leader compares no views with the state, or it would put them right before the run ends."""

    async def compare(self: StoreRepair) -> None:
        return None

    patch.setattr(StoreRepair, "_compare_views", compare)


def _uncompared(module: Any, ending: str) -> Callable[[Patch], None]:
    def take_out(patch: Patch) -> None:
        _no_repair(patch)
        compare = module.cmp_mod
        patch.setattr(
            module,
            "cmp_mod",
            lambda key, revision: compare("/absent", 0) if key.endswith(ending) else compare(key, revision),
        )

    return take_out


CASES = {
    "deduplication": (no_deduplication, "crash after it landed", "took effect at"),
    "fence": (no_fence, "it is held until another has just taken over", "in force"),
    "the unknown": (
        unknown_counts_as_never, "it lands, and nothing is heard until another has committed",
        "was refused; the journal",
    ),
    "finishing the views": (views_are_not_finished, "crash after it landed", "view "),
    "the views' own compare": (_uncompared(publisher, "/applied"), "it lands after its repeat", "view "),
    "the compare of head": (_uncompared(journal, "/head"), "it lands after its repeat", "was written 2 times"),
}  # fmt: skip


@pytest.mark.parametrize("guarantee", CASES)
def test_without_a_guarantee_something_is_found(monkeypatch: pytest.MonkeyPatch, guarantee: str) -> None:
    """The checkers find the violation if the fault hits one of the first twelve calls."""
    take_out, kind, sign = CASES[guarantee]
    take_out(monkeypatch)
    for number in range(12):
        wrong = run_with_fault(CallFault(kind, number))
        if any(sign in line for line in wrong):
            return
    raise AssertionError(f"nothing was found without {guarantee}")
