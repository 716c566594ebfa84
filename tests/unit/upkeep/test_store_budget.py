"""The division of etcd's quota: what a leader keeps fits, at any quota."""

from __future__ import annotations

import pytest

from masterd.settings import parse
from masterd.state_machine.remembered import RESULT_BYTES_MAX, size_of
from masterd.term.committer import LeaderSettings
from masterd.upkeep.space_plan import SpaceSettings
from masterd.upkeep.store_budget import StoreBudget
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS
from nodestore.schema.limits import ID_CHARS_MAX

SHIPPED = int(DEFAULT_SETTINGS["quota-backend-bytes"])
BATCH = LeaderSettings().commands_per_batch * size_of("x" * 40, RESULT_BYTES_MAX)
"""The results of the largest batch, with ids as the client makes them."""


def test_three_snapshots_journal_and_views_fit_half_the_shipped_quota() -> None:
    """With the largest results, the largest state, and the journal as long as it gets between two truncations."""
    settings = parse(["--id=m1", "--cluster=c", "--endpoints=127.0.0.1:2379"], {}).master_settings.leader
    assert settings.budget == StoreBudget()
    assert settings.budget.ids_bytes_max == 16 << 20
    assert settings.budget.peak_bytes(BATCH) <= SHIPPED // 2


@pytest.mark.parametrize("quota", [64 << 20, 100 << 20, SHIPPED, 512 << 20, 2 << 30, 8 << 30])
def test_the_parts_fit_any_quota(quota: int) -> None:
    """And with the snapshots and configurations that operators keep they stay below the fill at which room is made."""
    budget = StoreBudget.of_quota(quota)
    assert budget.peak_bytes(BATCH) <= quota // 2 + 3 * BATCH
    kept = budget.kept_bytes_max + budget.config_history_bytes_max
    assert budget.peak_bytes(BATCH) + kept <= SpaceSettings().make_room_at * quota + 3 * BATCH


def test_the_defaults_are_those_of_the_shipped_quota() -> None:
    assert StoreBudget() == StoreBudget.of_quota(SHIPPED)


def test_the_largest_ids_exceed_a_batch_by_little() -> None:
    """An id of a client of another kind may be longer; then a batch's results are at most this large."""
    assert LeaderSettings().commands_per_batch * size_of("x" * ID_CHARS_MAX, RESULT_BYTES_MAX) < 2 << 20
