"""The tests of late copies detect every rule that is removed from masterd.

A scenario that passes without its rule proves nothing. The rules have no switch, so private functions are patched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from masterd.election.campaign import Campaign
from masterd.state_machine.batch import Batch
from masterd.term import journal
from masterd.term.journal import Journal
from masterd.term.publisher import Publisher
from nodestore.errors import Garbage, NodectlError
from nodestore.etcd.session import Compare, Etcd, TxnResult
from nodestore.schema.keys import Keys
from tests.faults.late import repeats, scenarios, snapshots
from tests.support.etcd_cluster import EtcdCluster

Scenario = Callable[[EtcdCluster, Keys], Awaitable[None]]
Sabotage = Callable[[pytest.MonkeyPatch], None]


def without_compare(*parts: str) -> Sabotage:
    """No transaction compares a key that ends in, or has a directory named, one of `parts`."""

    def sabotage(patch: pytest.MonkeyPatch) -> None:
        def without(sent: Any) -> Any:
            async def txn(self: Etcd, compares: Sequence[Compare], *args: Any, **kwargs: Any) -> TxnResult:
                kept = [item for item in compares if not set(parts) & set(item.key.decode().split("/"))]
                result: TxnResult = await sent(self, kept, *args, **kwargs)
                return result

            return txn

        patch.setattr(Etcd, "txn", without(Etcd.txn))
        patch.setattr(Etcd, "txn_hedged", without(Etcd.txn_hedged))

    sabotage.__name__ = f"without_compare_of_{'_and_'.join(parts)}"
    return sabotage


def without_deduplication(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batch, "_earlier_outcome", lambda self, request: None)


def without_moving_head_when_giving_up(patch: pytest.MonkeyPatch) -> None:
    async def give_up(self: Journal, commit: journal.Commit, cause: NodectlError) -> int:
        raise cause

    patch.setattr(Journal, "_give_up", give_up)


def without_knowing_our_nonce_in_head(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal, "nonce_of", lambda kind, head: None)


def without_looking_at_the_lease(patch: pytest.MonkeyPatch) -> None:
    take_up = Campaign._claim_landed_takeover

    async def taken(self: Campaign, seen: Any, lease: int) -> Any:
        return await take_up(self, seen, seen.lease)

    patch.setattr(Campaign, "_claim_landed_takeover", taken)


def without_finishing_the_views(patch: pytest.MonkeyPatch) -> None:
    async def finish(self: Publisher, *args: Any) -> None:
        return None

    patch.setattr(Publisher, "finish_views", finish)


_RUNS = 3

CASES: list[tuple[Sabotage, Scenario]] = [
    (without_compare("leader"), scenarios.commit_after_its_leader_was_replaced),
    (without_compare("leader"), scenarios.chunk_of_a_deposed_leader),
    (without_compare("leader"), scenarios.takeover_that_lands_after_another),
    # it also compares the record of its own term, which is enough: no other term writes it
    (without_compare("leader", "terms"), scenarios.resignation_that_lands_after_reelection),
    (without_compare("head"), scenarios.commit_whose_reply_is_lost),
    (without_compare("head"), scenarios.commit_whose_copy_is_late),
    (without_compare("head"), scenarios.commit_whose_copy_lands_after_truncation),
    (without_compare("head"), scenarios.commit_given_up_after_an_open_attempt),
    (without_compare("terms"), scenarios.takeover_that_lands_after_it_was_won_and_resigned),
    (without_compare("applied"), scenarios.chunk_whose_copy_is_late),
    (without_compare("manifest"), snapshots.deletion_that_lands_after_the_restore),
    (without_deduplication, scenarios.commit_that_landed_unheard_before_its_leader_was_replaced),
    (without_moving_head_when_giving_up, scenarios.commit_given_up_after_an_open_attempt),
    (without_knowing_our_nonce_in_head, scenarios.commit_whose_reply_is_lost),
    (without_looking_at_the_lease, scenarios.takeover_that_lands_on_a_lease_given_up),
    (without_finishing_the_views, scenarios.chunk_of_a_deposed_leader),
]


def _name(case: Any) -> str:
    return str(case.__name__)


@pytest.mark.parametrize(("sabotage", "scenario"), CASES, ids=_name)
async def test_the_scenario_notices(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch, sabotage: Sabotage, scenario: Scenario
) -> None:
    """The scenario fails with its own assertion in at least one of three runs: on a busy machine the copy that should
    be late may be early."""
    sabotage(monkeypatch)
    for run in range(_RUNS):
        try:
            await asyncio.wait_for(scenario(etcd_one, Keys(f"{keys.cluster}-{run}")), 30.0)
        except (AssertionError, Garbage):  # a replica that can read no further raises Garbage
            await _clear_up()
            return
        await _clear_up()
    raise AssertionError(f"{_name(scenario)} passes {_name(sabotage)}")


async def _clear_up() -> None:
    """What the scenario would have ended itself."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize(
    "scenario",
    [
        repeats.repeat_within_a_batch_gets_the_first_result,
        repeats.repeat_in_a_later_batch_gets_the_first_result,
        repeats.each_id_takes_effect_once,
    ],
    ids=_name,
)
def test_deduplication_is_noticed(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[], None]) -> None:
    """Without deduplication, each scenario of repeated commands fails."""
    without_deduplication(monkeypatch)
    with pytest.raises(AssertionError):
        scenario()
