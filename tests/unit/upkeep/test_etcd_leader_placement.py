"""The leader and etcd's leader are kept apart, and a member that does not answer counts as not leading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from masterd.upkeep import etcd_leader_placement as placement_module
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


class RunningPlacement:
    """A running placement, and the number of its change notifications."""

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
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pauses between checks and between moves."""
    monkeypatch.setattr(placement_module, "_CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(placement_module, "_MOVE_AGAIN_S", 0.0)


async def test_etcds_leadership_is_moved_away() -> None:
    """Leadership is moved to another voting member that answers, however its URLs are written."""
    members = Members()
    members.learners = {2}
    async with RunningPlacement(members) as placement:
        await eventually(lambda: members.moves == [("10.0.0.1:2379", 3)], "leadership is moved to member 3")
        await eventually(lambda: not placement.hosts_etcd_leader, "this is seen")
        assert placement.problem is None


async def test_a_standby_moves_nothing() -> None:
    """A standby only reports that etcd's leader is on its PC."""
    members = Members()
    async with RunningPlacement(members, leads=False) as placement:
        await eventually(lambda: placement.hosts_etcd_leader, "it is seen")
        assert (members.moves, placement.problem) == ([], None)


async def test_a_member_that_died_leads_nothing() -> None:
    """If the member stops answering, it counts as not leading and the problem is withdrawn."""
    members = Members()
    members.dead = {2, 3}
    run = RunningPlacement(members)
    async with run as placement:
        await eventually(lambda: placement.problem is not None, "nothing can be moved")
        assert placement.hosts_etcd_leader
        changes = run.changes
        members.dead = {1, 2, 3}
        await eventually(lambda: not placement.hosts_etcd_leader, "it is forgotten")
        assert placement.problem is None
        assert run.changes == changes + 1
        members.dead = {2, 3}
        await eventually(lambda: placement.hosts_etcd_leader and placement.problem is not None, "and found again")


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        (3, ["no other member of etcd answers at 10.0.0.2:2379, 10.0.0.3:2379", "m2 is at pc2:2379; m3 is at pc3"]),
        (1, ["--endpoints names no other member", "m2 is at pc2:2379"]),
    ],
)
async def test_why_nothing_is_moved_is_said(endpoints: int, says: list[str]) -> None:
    """The problem names the endpoints that were tried and the addresses that etcd lists."""
    members = Members(endpoints)
    members.dead = {2, 3}
    async with RunningPlacement(members) as placement:
        await eventually(lambda: placement.problem is not None, "nothing can be moved")
        assert all(text in str(placement.problem) for text in says), placement.problem


async def test_an_only_member_is_said_to_be_one() -> None:
    """The problem says that etcd has no other member."""
    members = Members(1)
    members.listed = [1]
    async with RunningPlacement(members) as placement:
        await eventually(lambda: placement.problem is not None, "it is said")
        assert str(placement.problem).endswith("etcd has no other member")


def _finds(*answers: LocalMember) -> tuple[Callable[[], Any], list[LocalMember]]:
    left = list(answers)

    async def find() -> LocalMember:
        return left.pop(0) if len(left) > 1 else left[0]

    return find, left


async def test_a_pc_without_a_member_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A PC without a member logs that once, and finds the member when it appears."""
    monkeypatch.setattr(placement_module, "_FIND_AGAIN_S", 0.0)
    caplog.set_level("INFO")
    none = LocalMember(None, "no endpoint of 10.0.0.1:2379 is an address of this PC")
    find, left = _finds(none, none, none, LocalMember("10.0.0.1:2379"))
    etcd: Any = Members()
    placement = EtcdLeaderPlacement(etcd, find, lambda: None, lambda: None)
    task = asyncio.create_task(placement.run())
    await eventually(lambda: placement.hosts_etcd_leader, "the member is found")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    lines = [record.getMessage() for record in caplog.records if "no etcd member on this PC" in record.getMessage()]
    assert len(lines) == 1
    assert "name it with --local-member" in lines[0]
    assert len(left) == 1


async def test_a_lost_term_is_no_reason_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the term cannot be confirmed nothing is moved, and the member still counts as leading."""
    members = Members()
    confirmations = 0

    async def refuses() -> None:
        nonlocal confirmations
        confirmations += 1
        raise NodectlError("the term is over")

    async def find() -> LocalMember:
        return LocalMember("10.0.0.1:2379")

    etcd: Any = members
    placement = EtcdLeaderPlacement(etcd, find, lambda: refuses, lambda: None)
    task = asyncio.create_task(placement.run())
    await eventually(lambda: confirmations > 1, "it was asked")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert placement.hosts_etcd_leader
    assert members.moves == []
