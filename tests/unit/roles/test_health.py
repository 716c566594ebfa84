"""What a masterd reports about itself: its role, its problems, and for how long it has been stuck."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from masterd.assembly import MasterdParts
from nodestore.cluster.election import LeaderSeen
from nodestore.schema.models import LeaderRecord
from tests.support.fakes.masterd_parts import KEYS, M1, FakeLeader, offline_parts

_M2_LEADS = LeaderSeen(9, LeaderRecord(id="m2", host="pc2", urls=(), nonce="n", since=0.0), 5)


@asynccontextmanager
async def standby() -> AsyncIterator[MasterdParts]:
    """A standby without a problem."""
    made = offline_parts()
    made.replica.problem = None
    yield made
    await made.read_sources.etcd.close()


def _gave_up(parts: MasterdParts) -> None:
    parts.leadership.give_up_reason = "gave up term 1.7: it was broken"


def _gave_up_and_m2_leads(parts: MasterdParts) -> None:
    _gave_up(parts)
    parts.cluster_view.leader = _M2_LEADS


def _unread_journal(parts: MasterdParts) -> None:
    _gave_up(parts)
    parts.replica.problem = "the journal has a gap"


def _unwatched(parts: MasterdParts) -> None:
    parts.cluster_view.watch_error = "cannot watch"


def _outage(parts: MasterdParts) -> None:
    parts.replica.outage = "no route"


def _outage_of_a_leader(parts: MasterdParts) -> None:
    """The leader's heartbeats report an outage by `stuck_s`."""
    _outage(parts)
    parts.leadership.leader = FakeLeader().role


@pytest.mark.parametrize(
    ("change", "role_problem", "problem", "problem_or_outage"),
    [
        (lambda parts: None, None, None, None),
        (_gave_up, *["gave up term 1.7: it was broken"] * 3),
        (_gave_up_and_m2_leads, None, None, None),
        (_unread_journal, *["the journal has a gap"] * 3),
        (_unwatched, None, "cannot watch", "cannot watch"),
        (_outage, None, None, "etcd cannot be read: no route"),
        (_outage_of_a_leader, None, None, None),
    ],
)
async def test_the_first_problem_is_reported(
    change: Callable[[MasterdParts], None],
    role_problem: str | None,
    problem: str | None,
    problem_or_outage: str | None,
) -> None:
    async with standby() as parts:
        change(parts)
        health = parts.health
        assert (health.role_problem, health.problem) == (role_problem, problem)
        assert health.problem_or_outage == problem_or_outage


async def test_the_role_follows_the_leader_role() -> None:
    async with standby() as parts:
        leadership = parts.leadership
        assert (leadership.role, leadership.term, leadership.config_rejection) == ("standby", None, None)
        leader = FakeLeader(revision=12)
        leader.config_rejection = 5, "no such driver"
        leader.stuck_s = 0.4
        leadership.leader = leader.role
        assert (leadership.role, leadership.term) == ("leader", (1, 12))
        assert leadership.config_rejection == (5, "no such driver")
        assert leadership.stuck_s == 0.4


async def test_only_a_serving_leader_confirms_its_term() -> None:
    """Etcd's leader is moved only by a masterd that can show that it leads."""
    async with standby() as parts:
        leadership, leader = parts.leadership, FakeLeader()
        assert leadership.confirmation() is None
        leadership.leader = leader.role
        assert leadership.confirmation() is None
        leader.serving.set()
        confirm = leadership.confirmation()
        assert confirm is not None
        await confirm()
        assert leader.confirmations == 1


async def test_the_parts_share_their_collaborators() -> None:
    """Reads, roles and health see the same view, replica and role."""
    async with standby() as parts:
        sources = parts.read_sources
        assert (sources.own_id, sources.keys.prefix) == (M1.id, KEYS.prefix)
        assert sources.cluster_view is parts.cluster_view
        assert sources.replica is parts.replica
        assert sources.snapshots is parts.replica.snapshots
        assert sources.leadership is parts.leadership
        assert sources.health is parts.health
