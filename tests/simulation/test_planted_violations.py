"""Each guarantee that the promises rest on is taken out of the programs, one at a time: among the committed seeds, runs
must be found in which the checker that is there for it sees the violation; and with all of them in place none sees any.
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
from tests.simulation.storm import live

SEEDS = range(20)
"""Not chosen: docs/faults.md says how many of them see each violation."""
RIGHT = range(400) if os.environ.get("NODECTL_PROPERTIES") == "long" else SEEDS
"""Those in which nothing may be found with everything in place."""

Patch = pytest.MonkeyPatch


class _WithoutLeader(Fence):
    __slots__ = ()

    def compares(self, keys: Keys) -> list[Compare]:
        return [item for item in super().compares(keys) if item.key != keys.leader.encode()]


def commits_leader_compare(patch: Patch) -> None:
    """A commit compares `epoch` and `head`, and not that the term is its leader's still."""
    begin = Journal.__init__

    def init(self: Journal, etcd: Any, keys: Keys, fence: Fence, head: Any) -> None:
        begin(self, etcd, keys, _WithoutLeader(fence.term, fence.epoch_revision, fence.nonce), head)

    patch.setattr(Journal, "__init__", init)


def commits_head_compare(patch: Patch) -> None:
    """A commit compares that it leads, and not which commit was the last."""

    def compare(key: str, revision: int) -> Compare:
        return cmp_mod("/absent", 0) if key.endswith("/head") else cmp_mod(key, revision)

    patch.setattr(journal, "cmp_mod", compare)


def deduplication(patch: Patch) -> None:
    """An id that was seen before counts as new."""
    patch.setattr(Batch, "_earlier_outcome", lambda self, request: None)


def takeovers_nonce_compare(patch: Patch) -> None:
    """A takeover compares `leader`, and not that its own attempt has won no term yet."""

    def compare(key: str, revision: int) -> Compare:
        return cmp_create("/absent" if "/terms/" in key else key, revision)

    patch.setattr(election, "cmp_create", compare)


def nodeds_order_check(patch: Patch) -> None:
    """noded obeys whatever it reads, lower than what it has obeyed or not."""
    take = Orders.observe

    def taken(self: Orders, value: bytes | None) -> None:
        self._highest_obeyed = None
        take(self, value)

    patch.setattr(Orders, "observe", taken)


def reads_confirmation(patch: Patch) -> None:
    """A leader answers reads from its memory, without asking etcd whether it still leads."""

    async def confirm(self: Leader) -> None:
        self._raise_if_ended()

    patch.setattr(Leader, "confirm_read", confirm)


def streams_first_of_a_term(patch: Patch) -> None:
    """A master's stream passes over the first command of each term but the first."""
    _tell_otherwise(patch, lambda first, _: [] if first else None)


def streams_count_over_a_takeover(patch: Patch) -> None:
    """A master's stream tells the first command of each term but the first twice."""
    _tell_otherwise(patch, lambda first, event: [event, event] if first else None)


def _tell_otherwise(patch: Patch, tell: Callable[[bool, bytes], list[bytes] | None]) -> None:
    told = event_streams._command_events

    def otherwise(epoch: int | None, entries: list[Entry], position: int) -> Iterator[bytes]:
        for entry in entries:
            for number, event in enumerate(told(epoch, [entry], position)):
                first = entry.first > position and number == 0 and _begins_term(entry)
                yield from (event,) if (said := tell(first, event)) is None else said

    seen: dict[int, int] = {}

    def _begins_term(entry: Entry) -> bool:
        begins = seen.setdefault(entry.term, entry.first) == entry.first
        return begins and entry.first > 1

    patch.setattr(event_streams, "_command_events", otherwise)


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
"""What is taken out, and the checker that must see it: one of those that judge real hosts, by itself."""


@pytest.mark.parametrize("seed", RIGHT)
def test_nothing_is_wrong_with_all_guarantees_in_place(seed: int) -> None:
    """Whatever happens in this run, no checker finds anything."""
    life = live(seed)
    assert not life.wrong, "\n".join([*life.told, str(life.wrong)])


def test_a_seed_decides_all_of_a_run() -> None:
    """To the last byte that is written: what a seed has shown can be looked into."""
    assert live(SEEDS[0]).written == live(SEEDS[0]).written


@pytest.mark.parametrize(("guarantee", "checker"), PLANTED.items(), ids=lambda item: getattr(item, "__name__", item))
def test_a_guarantee_taken_out_is_seen(
    monkeypatch: pytest.MonkeyPatch, guarantee: Callable[[Patch], None], checker: str
) -> None:
    """By its checker, in at least one of the same runs."""
    guarantee(monkeypatch)
    assert any(checker in live(seed).wrong for seed in SEEDS), f"{checker}: nothing was seen in {len(SEEDS)} runs"
