"""Held-back copies and lost replies of commits, takeovers, views and resignations: nothing lands that must not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from nodestore.schema.keys import Keys
from tests.faults.late import scenarios as scenarios
from tests.support.etcd_cluster import EtcdCluster

Scenario = Callable[[EtcdCluster, Keys], Awaitable[None]]

SCENARIOS: list[Scenario] = [
    scenarios.commit_after_its_leader_was_replaced,
    scenarios.commit_after_its_successor_committed,
    scenarios.commit_that_landed_unheard_before_its_leader_was_replaced,
    scenarios.commit_whose_reply_is_lost,
    scenarios.commit_whose_copy_is_late,
    scenarios.commit_whose_copy_lands_after_truncation,
    scenarios.commit_given_up_after_an_open_attempt,
    scenarios.takeover_whose_reply_is_lost,
    scenarios.takeover_that_lands_after_it_was_won_and_resigned,
    scenarios.takeover_that_lands_after_another,
    scenarios.takeover_that_lands_after_its_candidate_gave_up,
    scenarios.takeover_that_lands_on_a_lease_given_up,
    scenarios.chunk_of_a_deposed_leader,
    scenarios.chunk_whose_copy_is_late,
    scenarios.resignation_that_lands_after_reelection,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_late(etcd_one: EtcdCluster, keys: Keys, scenario: Scenario) -> None:
    """Each scenario asserts its outcome."""
    await scenario(etcd_one, keys)
