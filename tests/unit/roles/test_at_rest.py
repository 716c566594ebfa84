"""What masters do while nothing happens: as little as possible, and no less than is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import aiohttp

from masterd.election.suspicion import LAN
from masterd.upkeep.space_keeper import SpaceKeeper
from masterd.upkeep.space_plan import SpaceSettings
from nodestore.etcd.types import MemberStatus
from nodestore.support.jsonio import loads
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.leader_watch import watch
from tests.support.fakes.masterd_parts import FakeMasterd, serving
from tests.support.fakes.members import status_response

_QUOTA = 100 << 20


class _Member:
    """Of etcd: so much of its quota is in use. It notes when it is asked."""

    def __init__(self, use: float) -> None:
        self.use, self.asked = use, list[float]()
        self.settings = SimpleNamespace(endpoints=("a:1",), user=None, cert=None)

    async def call_member(self, endpoint: str, method: str, request: Any, timeout_s: float) -> Any:
        assert method == "Maintenance/Status"
        self.asked.append(time.monotonic())
        used = int(self.use * _QUOTA)
        return status_response(MemberStatus(1, 1, "3.5.30", used, used, 1, 1, 1, ()))


class _Journal:
    """What a leader has committed."""

    journal_bytes = 0

    def __init__(self) -> None:
        self.bytes_seen = 0
        self._grew: list[Callable[[], None]] = []

    def subscribe(self, grew: Callable[[], None]) -> Callable[[], None]:
        self._grew.append(grew)
        return lambda: self._grew.remove(grew)

    def commit(self, size: int) -> None:
        self.bytes_seen += size
        for grew in self._grew:
            grew()

    async def make_room(self) -> None:
        return


def _looks(use: float, commit_at: float = 0.0, size: int = 0) -> list[float]:
    """When a leader's keeper looks in the first 13 s, of which it rests but for one commit."""
    with VirtualTime() as world:
        member, journal, begun = _Member(use), _Journal(), world.now

        async def rest() -> None:
            settings, etcd = SpaceSettings(quota_bytes=_QUOTA), cast(Any, member)
            keeper = SpaceKeeper(etcd, etcd, cast(Any, None), settings, lambda: 0, lambda: world.now)
            keeper.set_journal_owner(journal)
            running = asyncio.create_task(keeper.run())
            await asyncio.sleep(commit_at)
            journal.commit(size)
            await asyncio.sleep(13.0 - commit_at)
            running.cancel()
            keeper.set_journal_owner(None)

        world.run(rest())
        return [round(at - begun, 1) for at in member.asked]


def test_a_leader_that_commits_nothing_seldom_asks_how_full_etcd_is() -> None:
    """Every five seconds, where there is room in plenty; every second where there is not."""
    assert _looks(0.05) == [0.0, 5.0, 10.0]
    assert _looks(0.5) == [float(at) for at in range(13)]


def test_what_is_committed_at_rest_is_looked_at_as_soon_as_ever() -> None:
    """A little within a second, much at once: neither waits for the end of a long pause."""
    assert _looks(0.05, commit_at=5.2, size=100) == [0.0, 5.0, 6.0, 11.0]
    assert _looks(0.05, commit_at=7.2, size=100) == [0.0, 5.0, 7.2, 12.2]
    assert _looks(0.05, commit_at=5.2, size=_QUOTA // 40) == [0.0, 5.0, 5.2, 10.2]


async def test_heartbeats_of_all_standbys_come_by_one_timer() -> None:
    """Each hears the term, what changes in it, and the end."""
    masterd = FakeMasterd(timing=replace(LAN, beat_s=0.01))
    leader = masterd.lead()
    async with (
        serving(masterd) as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/v1/follow") as one,
        session.get(url + "/v1/follow") as other,
    ):
        for heard in (one, other):
            assert loads(await heard.content.readline())["stuck_s"] == 0.0
        leader.stuck_s = 0.7
        for heard in (one, other):
            while (beat := loads(await heard.content.readline()))["stuck_s"] != 0.7:
                pass
            assert set(beat) == {"term", "index", "stuck_s"}
        masterd.leadership.leader = None
        for heard in (one, other):
            assert b"".join([line async for line in heard.content]).count(b"\n") <= 2


async def test_a_heartbeat_moves_the_timer_and_wakes_nobody() -> None:
    """The decision loop is woken if one is missing, or if it reports that the leader is stuck."""
    # Private: `run` opens connections, and that the loop is not woken shows nowhere else.
    found = watch()
    looking = asyncio.create_task(found._decide_loop())
    await asyncio.sleep(0)
    first = found._timer
    found.on_heartbeat(0.0)
    assert first is not None
    assert first.cancelled()
    assert found._timer is not None
    assert not found._recheck.is_set()
    found.on_heartbeat(LAN.stuck_s)
    assert found._recheck.is_set()
    looking.cancel()
    await asyncio.wait((looking,))
    assert found._timer is None
