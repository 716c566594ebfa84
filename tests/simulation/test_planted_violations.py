"""Each guarantee is removed from the programs, one at a time, and its checker must detect that in some of the seeds.

With all guarantees in place no checker finds anything. The guarantees have no switch, so the tests patch private
functions of the modules that implement them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from masterd.api import event_streams
from masterd.state_machine.batch import Batch
from masterd.term import journal
from masterd.term.journal import Journal
from masterd.term.leader import Leader
from noded.reconcile.orders import Orders
from nodestore.cluster import election
from nodestore.cluster.election import Fence
from nodestore.etcd.session import Compare, cmp_create, cmp_mod
from nodestore.schema.keys import Keys
from nodestore.schema.models import Entry
from tests.simulation.storm import run_seed

SEEDS = range(20)
"""Not selected by result. docs/faults.md says how many of them show each violation."""
RIGHT = range(400) if os.environ.get("NODECTL_PROPERTIES") == "long" else SEEDS
"""The seeds in which nothing may be found with all guarantees in place."""

Patch = pytest.MonkeyPatch


class _WithoutLeader(Fence):
    __slots__ = ()

    def compares(self, keys: Keys) -> list[Compare]:
        return [item for item in super().compares(keys) if item.key != keys.leader.encode()]


def commits_leader_compare(patch: Patch) -> None:
    """A commit compares `epoch` and `head`, but not `leader`."""
    begin = Journal.__init__

    def init(self: Journal, etcd: Any, keys: Keys, fence: Fence, head: Any, index: int | None = None) -> None:
        begin(self, etcd, keys, _WithoutLeader(fence.term, fence.epoch_revision, fence.nonce), head, index)

    patch.setattr(Journal, "__init__", init)


def commits_head_compare(patch: Patch) -> None:
    """A commit compares `leader` and `epoch`, but not `head`."""

    def compare(key: str, revision: int) -> Compare:
        return cmp_mod("/absent", 0) if key.endswith("/head") else cmp_mod(key, revision)

    patch.setattr(journal, "cmp_mod", compare)


def deduplication(patch: Patch) -> None:
    """A command id is never recognised as a repeat."""
    patch.setattr(Batch, "_earlier_outcome", lambda self, request: None)


def takeovers_nonce_compare(patch: Patch) -> None:
    """A takeover compares `leader`, but not that its own attempt has not won a term before."""

    def compare(key: str, revision: int) -> Compare:
        return cmp_create("/absent" if "/terms/" in key else key, revision)

    patch.setattr(election, "cmp_create", compare)


def nodeds_order_check(patch: Patch) -> None:
    """noded obeys every order that it reads, also a lower one than before."""
    original = Orders.observe

    def observe(self: Orders, value: bytes | None) -> None:
        self._highest_obeyed = None
        original(self, value)

    patch.setattr(Orders, "observe", observe)


def reads_confirmation(patch: Patch) -> None:
    """A leader answers reads from memory, without confirming its term in etcd."""

    async def confirm(self: Leader) -> None:
        self._raise_if_ended()

    patch.setattr(Leader, "confirm_read", confirm)


def streams_first_of_a_term(patch: Patch) -> None:
    """The event stream omits the first command of each term except the first."""
    _alter_events(patch, lambda first, _: [] if first else None)


def streams_count_over_a_takeover(patch: Patch) -> None:
    """The event stream sends the first command of each term except the first twice."""
    _alter_events(patch, lambda first, event: [event, event] if first else None)


def _alter_events(patch: Patch, alter: Callable[[bool, bytes], list[bytes] | None]) -> None:
    original = event_streams._command_events

    def altered(epoch: int | None, entries: list[Entry], position: int, show: Any) -> Iterator[bytes]:
        for entry in entries:
            for number, event in enumerate(original(epoch, [entry], position, show)):
                first = entry.first > position and number == 0 and _begins_term(entry)
                yield from (event,) if (replacement := alter(first, event)) is None else replacement

    first_indexes: dict[int, int] = {}

    def _begins_term(entry: Entry) -> bool:
        begins = first_indexes.setdefault(entry.term, entry.first) == entry.first
        return begins and entry.first > 1

    patch.setattr(event_streams, "_command_events", altered)


PLANTED: dict[Callable[[Patch], None], str] = {
    commits_leader_compare: "deposed leaders",
    commits_head_compare: "no gap, no fork",
    deduplication: "exactly once",
    takeovers_nonce_compare: "terms grow",
    nodeds_order_check: "nodes",
    reads_confirmation: "linearizable",
    streams_first_of_a_term: "streams",
    streams_count_over_a_takeover: "streams",
}
"""Each removed guarantee, and the checker that must detect it; all of these also judge runs on real hosts."""


@pytest.mark.parametrize("seed", RIGHT)
def test_nothing_is_wrong_with_all_guarantees_in_place(seed: int) -> None:
    """No checker finds anything in the run of any seed."""
    result = run_seed(seed)
    assert not result.wrong, "\n".join([*result.log, str(result.wrong)])


def test_a_seed_decides_all_of_a_run() -> None:
    """Two runs of one seed write the same bytes, so that a finding can be reproduced."""
    assert run_seed(SEEDS[0]).written == run_seed(SEEDS[0]).written


@pytest.mark.parametrize(("guarantee", "checker"), PLANTED.items(), ids=lambda item: getattr(item, "__name__", item))
def test_a_guarantee_taken_out_is_seen(
    monkeypatch: pytest.MonkeyPatch, guarantee: Callable[[Patch], None], checker: str
) -> None:
    """The checker finds the violation in the run of at least one seed."""
    guarantee(monkeypatch)
    assert any(checker in run_seed(seed).wrong for seed in SEEDS), f"{checker}: nothing was found in {len(SEEDS)} runs"
