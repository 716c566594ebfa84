"""The leader and etcd's leader part; and what is no longer known of the member on this PC is not said any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from masterd.upkeep import etcd_leader_placement as separations
from masterd.upkeep.etcd_leader_placement import EtcdLeaderPlacement
from masterd.upkeep.local_member import LocalMember
from nodestore.errors import NodectlError, Unavailable
from nodestore.etcd.session import Member, MemberStatus
from tests.support.fakes.members import member_list_response, status_response
from tests.support.waiting import eventually

_URLS = {1: ("http://pc1:2379",), 2: ("http://pc2:2379",), 3: ("http://pc3:2379/",)}


class Members:
    """Three members; member 1 is on this PC. The endpoints are addresses, the advertised URLs are names."""

    def __init__(self, endpoints: int = 3) -> None:
        self.ids = {f"10.0.0.{item}:2379": item for item in range(1, 4)}
        self.settings = SimpleNamespace(endpoints=tuple(list(self.ids)[:endpoints]))
        self.leader = 1
        self.dead: set[int] = set()
        self.learners: set[int] = set()
        self.listed = [1, 2, 3]
        self.moves: list[tuple[str, int]] = []

    async def call_member(self, endpoint: str, method: str, request: Any, timeout_s: float) -> Any:
        if method == "Maintenance/MoveLeader":
            return self._move_leader(endpoint, request.targetID)
        assert method == "Maintenance/Status"
        if (member := self.ids[endpoint]) in self.dead:
            raise Unavailable(f"{endpoint} does not answer")
        return status_response(MemberStatus(member, self.leader, "3.5.30", 0, 0, 1, 1, 1, ()))

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        assert method == "Cluster/MemberList"
        return member_list_response(
            *(Member(item, f"m{item}", _URLS[item], (), item in self.learners) for item in self.listed)
        )

    def _move_leader(self, endpoint: str, target: int) -> None:
        self.moves.append((endpoint, target))
        self.leader = target


class Running:
    """A separation that runs, and what it said."""

    def __init__(self, members: Members, *, leads: bool = True) -> None:
        self.members, self.leads, self.changes = members, leads, 0

        async def confirm() -> None:
            return None

        async def find() -> LocalMember:
            return LocalMember("10.0.0.1:2379")

        etcd: Any = members
        self.it = EtcdLeaderPlacement(etcd, find, lambda: confirm if self.leads else None, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def __aenter__(self) -> EtcdLeaderPlacement:
        self._task = asyncio.create_task(self.it.run())
        return self.it

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks, and moves, as often as it can."""
    monkeypatch.setattr(separations, "_CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(separations, "_MOVE_AGAIN_S", 0.0)


async def test_etcds_leadership_is_moved_away() -> None:
    """To a member that answers and votes, whatever the URLs that etcd knows it by."""
    members = Members()
    members.learners = {2}
    async with Running(members) as separation:
        await eventually(lambda: members.moves == [("10.0.0.1:2379", 3)], "leadership is moved to member 3")
        await eventually(lambda: not separation.hosts_etcd_leader, "this is seen")
        assert separation.problem is None


async def test_a_standby_moves_nothing() -> None:
    """It only says that it is on the PC of etcd's leader."""
    members = Members()
    async with Running(members, leads=False) as separation:
        await eventually(lambda: separation.hosts_etcd_leader, "it is seen")
        assert (members.moves, separation.problem) == ([], None)


async def test_a_member_that_died_leads_nothing() -> None:
    """What was said of it while it lived must not rank this masterd last, nor stay in the status."""
    members = Members()
    members.dead = {2, 3}
    running = Running(members)
    async with running as separation:
        await eventually(lambda: separation.problem is not None, "nothing can be moved")
        assert separation.hosts_etcd_leader
        changes = running.changes
        members.dead = {1, 2, 3}
        await eventually(lambda: not separation.hosts_etcd_leader, "it is forgotten")
        assert separation.problem is None
        assert running.changes == changes + 1
        members.dead = {2, 3}
        await eventually(lambda: separation.hosts_etcd_leader and separation.problem is not None, "and found again")


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        (3, ["no other member of etcd answers at 10.0.0.2:2379, 10.0.0.3:2379", "m2 is at pc2:2379; m3 is at pc3"]),
        (1, ["--endpoints names no other member", "m2 is at pc2:2379"]),
    ],
)
async def test_why_nothing_is_moved_is_said(endpoints: int, says: list[str]) -> None:
    """With what was asked, and where etcd says that its members are: the two may not fit together."""
    members = Members(endpoints)
    members.dead = {2, 3}
    async with Running(members) as separation:
        await eventually(lambda: separation.problem is not None, "nothing can be moved")
        assert all(text in str(separation.problem) for text in says), separation.problem


async def test_an_only_member_is_said_to_be_one() -> None:
    """There is nowhere to move leadership to, and the death of this PC costs more than a takeover."""
    members = Members(1)
    members.listed = [1]
    async with Running(members) as separation:
        await eventually(lambda: separation.problem is not None, "it is said")
        assert str(separation.problem).endswith("etcd has no other member")


def _finds(*answers: LocalMember) -> tuple[Callable[[], Any], list[LocalMember]]:
    left = list(answers)

    async def find() -> LocalMember:
        return left.pop(0) if len(left) > 1 else left[0]

    return find, left


async def test_a_pc_without_a_member_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And finds it when the PC has its address at last."""
    monkeypatch.setattr(separations, "_FIND_AGAIN_S", 0.0)
    caplog.set_level("INFO")
    none = LocalMember(None, "its addresses are not among 10.0.0.1:2379")
    find, left = _finds(none, none, none, LocalMember("10.0.0.1:2379"))
    etcd: Any = Members()
    separation = EtcdLeaderPlacement(etcd, find, lambda: None, lambda: None)
    task = asyncio.create_task(separation.run())
    await eventually(lambda: separation.hosts_etcd_leader, "the member is found")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    said = [record.getMessage() for record in caplog.records if "no etcd member on this PC" in record.getMessage()]
    assert len(said) == 1
    assert "name it with --local-member" in said[0]
    assert len(left) == 1


async def test_a_lost_term_is_no_reason_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The member still leads etcd: it was only not confirmed that this masterd leads."""
    members = Members()
    asked = 0

    async def refuses() -> None:
        nonlocal asked
        asked += 1
        raise NodectlError("the term is over")

    async def find() -> LocalMember:
        return LocalMember("10.0.0.1:2379")

    etcd: Any = members
    separation = EtcdLeaderPlacement(etcd, find, lambda: refuses, lambda: None)
    task = asyncio.create_task(separation.run())
    await eventually(lambda: asked > 1, "it was asked")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert separation.hosts_etcd_leader
    assert members.moves == []
