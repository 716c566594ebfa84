"""`/leader`, `/ready` and `/live`: for load balancers, by status alone."""

from __future__ import annotations

import aiohttp
import pytest

from tests.support.fakes.masterd_parts import FakeMasterd, serving

PATHS = ("/leader", "/ready", "/live")
LEADING, FOLLOWING, ALIVE = (200, 200, 200), (503, 200, 200), (503, 503, 200)


async def _statuses(masterd: FakeMasterd) -> tuple[int, ...]:
    """The status of each of `PATHS`. GET and HEAD say the same, and nothing else."""
    found = []
    async with serving(masterd) as url, aiohttp.ClientSession() as session:
        for path in PATHS:
            for method in ("GET", "HEAD"):
                async with session.request(method, url + path) as answer:
                    assert (await answer.read(), answer.headers["Cache-Control"]) == (b"", "no-store")
                    assert not [name for name in answer.headers if name.startswith("Nodectl-")]
                    found.append(answer.status)
    assert found[::2] == found[1::2]
    return tuple(found[::2])


def _follower() -> FakeMasterd:
    """A standby that has read the journal and follows it."""
    masterd = FakeMasterd()
    masterd.replica_of_health.problem, masterd.replica_of_health.up_to_date_at = None, 1.0
    return masterd


async def test_a_standby_that_follows_is_ready_without_a_leader() -> None:
    """If no standby were ready while there is no leader, a balancer would refuse what a master holds until there is."""
    assert await _statuses(_follower()) == FOLLOWING


async def test_the_leader() -> None:
    masterd = _follower()
    masterd.lead().serving.set()
    assert await _statuses(masterd) == LEADING


async def test_a_leader_that_does_not_serve_yet() -> None:
    masterd = _follower()
    masterd.lead()
    assert await _statuses(masterd) == ALIVE


async def test_a_leader_whose_term_has_ended() -> None:
    masterd = _follower()
    leader = masterd.lead()
    leader.serving.set()
    leader.has_ended = True
    assert await _statuses(masterd) == ALIVE


@pytest.mark.parametrize("hindrance", ["unread", "outage", "problem"])
async def test_a_standby_that_does_not_follow(hindrance: str) -> None:
    masterd = _follower()
    if hindrance == "unread":
        masterd.replica_of_health.up_to_date_at = 0.0
    else:
        setattr(masterd.replica_of_health, hindrance, "etcd does not answer")
    assert await _statuses(masterd) == ALIVE


async def test_other_methods_are_refused() -> None:
    async with (
        serving(FakeMasterd()) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/leader") as answer,
    ):
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
