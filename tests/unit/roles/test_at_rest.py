"""Masters at rest: how often the leader reads etcd's status, and how heartbeats are sent and received."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from masterd.election.suspicion import LAN, Decision, Suspicion
from masterd.upkeep.space_keeper import SpaceKeeper
from masterd.upkeep.space_plan import SpaceSettings
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import MemberStatus
from nodestore.support.jsonio import loads
from tests.support.fakes.clock import Stuck, VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.leader_watch import KEYS, running, watch
from tests.support.fakes.masterd_parts import FakeMasterd, serving
from tests.support.fakes.members import status_response

_QUOTA = 100 << 20


class _Member:
    """A fake etcd member of which `use` (0 to 1) of the quota is in use. It records when its status is read."""

    def __init__(self, use: float) -> None:
        self.use, self.asked = use, list[float]()
        self.settings = SimpleNamespace(endpoints=("a:1",), user=None, cert=None)

    async def call_member(self, endpoint: str, method: str, request: Any, timeout_s: float) -> Any:
        assert method == "Maintenance/Status"
        self.asked.append(time.monotonic())
        used = int(self.use * _QUOTA)
        return status_response(MemberStatus(1, 1, "3.5.30", used, used, 1, 1, 1, ()))


class _Journal:
    """The journal of a leader: how many bytes it has committed."""

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


def _checks(use: float, commit_at: float = 0.0, size: int = 0) -> list[float]:
    """Return when SpaceKeeper reads the member's status within 13 s, in which the leader commits once."""
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


def test_a_leader_that_commits_nothing_seldom_checks_the_space_in_etcd() -> None:
    """It checks every five seconds if there is plenty of room, and every second otherwise."""
    assert _checks(0.05) == [0.0, 5.0, 10.0]
    assert _checks(0.5) == [float(at) for at in range(13)]


def test_a_commit_ends_the_long_pause_between_two_checks() -> None:
    """After a small commit the next check follows within a second, after a large one at once."""
    assert _checks(0.05, commit_at=5.2, size=100) == [0.0, 5.0, 6.0, 11.0]
    assert _checks(0.05, commit_at=7.2, size=100) == [0.0, 5.0, 7.2, 12.2]
    assert _checks(0.05, commit_at=5.2, size=_QUOTA // 40) == [0.0, 5.0, 5.2, 10.2]


async def test_all_standbys_receive_heartbeats_from_one_timer() -> None:
    """Each stream shows the term, a change of `stuck_s`, and the end of the term."""
    masterd = FakeMasterd(timing=replace(LAN, beat_s=0.01))
    leader = masterd.lead()
    async with (
        serving(masterd) as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/v1/follow") as one,
        session.get(url + "/v1/follow") as other,
    ):
        for stream in (one, other):
            assert loads(await stream.content.readline())["stuck_s"] == 0.0
        leader.stuck_s = 0.7
        for stream in (one, other):
            while (beat := loads(await stream.content.readline()))["stuck_s"] != 0.7:
                pass
            assert set(beat) == {"term", "index", "stuck_s"}
        masterd.leadership.leader = None
        for stream in (one, other):
            assert b"".join([line async for line in stream.content]).count(b"\n") <= 2


def test_a_heartbeat_moves_the_timer_without_waking_the_decision_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs only if a heartbeat is missed, or if a heartbeat reports that the leader is stuck."""
    decided: list[float] = []
    original = Suspicion.decide

    def decide(self: Suspicion, now: float) -> Decision:
        decided.append(now)
        return original(self, now)

    monkeypatch.setattr(Suspicion, "decide", decide)

    async def receive(world: VirtualTime) -> None:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
            found = watch(etcd=etcd)
            async with running(found):
                await asyncio.sleep(LAN.connect_s + LAN.missed_s / 2)
                decided.clear()
                heartbeat_at = world.now
                found.on_heartbeat(0.0)
                assert decided == [heartbeat_at]  # by `on_heartbeat` itself, for the time of the timer
                await asyncio.sleep(LAN.missed_s * 0.9)  # past the time of the timer before
                assert decided == [heartbeat_at]
                found.on_heartbeat(LAN.stuck_s)
                assert decided == [heartbeat_at]
                await asyncio.sleep(0)
                assert decided == [heartbeat_at, world.now]

    with VirtualTime() as world:
        world.run(receive(world))


def test_a_watch_that_ends_leaves_no_timer() -> None:
    """Otherwise time would pass until that timer fires, before the event loop has nothing left to do."""

    async def begin_and_end() -> None:
        found = watch()
        async with running(found):
            found.on_heartbeat(0.0)

    with VirtualTime() as world:
        world.run(begin_and_end())
        ended_at = world.now
        with pytest.raises(Stuck):
            world.run(asyncio.Event().wait())
        assert world.now == ended_at


def test_a_missed_heartbeat_wakes_the_decision_loop() -> None:
    """The timer that the last heartbeat has set fires after `missed_s`, and the leader is challenged."""

    async def miss() -> float:
        async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
            found = watch(etcd=etcd)
            async with running(found):
                await asyncio.sleep(LAN.connect_s)
                found.on_heartbeat(0.0)
                heartbeat_at = time.monotonic()
                while await etcd.get(KEYS.challenge("m3")) is None:
                    await asyncio.sleep(0.01)
                return time.monotonic() - heartbeat_at

    with VirtualTime() as world:
        assert world.run(miss()) == pytest.approx(LAN.missed_s, abs=0.03)
