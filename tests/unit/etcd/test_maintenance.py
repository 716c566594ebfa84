"""Administration of etcd, with the store in memory and with scripted members."""

from __future__ import annotations

from typing import Any

import pytest

from nodestore.errors import Compacted, Denied, OutcomeUnknown, Unavailable
from nodestore.etcd import maintenance
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import MemberStatus
from tests.support.fakes.etcd import MEMBERS, SETTINGS, FakeEtcd
from tests.support.fakes.members import status_response

STATUS = MemberStatus(7, 8, "3.6.11", 100, 60, 5, 900, 450, ("alarm:NOSPACE",), 1000)


class Session:
    """Notes the calls to single members, and answers them with `answer`, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self._answer = answer

    async def call_member(self, address: str, method: str, request: Any, timeout_s: float) -> Any:
        self.calls.append((address, method, request))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def test_members_status_and_compaction() -> None:
    async with Etcd(SETTINGS, connect=FakeEtcd().connect) as etcd:
        assert [member.name for member in await maintenance.members(etcd)] == ["fake-1", "fake-2", "fake-3"]
        revision = await etcd.put("/a", b"x")
        assert (await maintenance.status(etcd, MEMBERS[1])).raft_index == revision
        await maintenance.compact(etcd, revision)
        with pytest.raises(Compacted):
            await maintenance.compact(etcd, revision)
        assert await maintenance.alarms(etcd) == ()


async def test_all_fields_of_a_status() -> None:
    session: Any = Session(status_response(STATUS))
    assert await maintenance.status(session, "pc1:2379") == STATUS
    assert session.calls == [("pc1:2379", "Maintenance/Status", pb.StatusRequest())]


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), Unavailable("no answer")])
async def test_a_member_that_does_not_answer(error: Exception) -> None:
    """A status and a read have no effect, so their outcome is never unknown; that of the other calls is."""
    session: Any = Session(error)
    with pytest.raises(Unavailable, match="no answer"):
        await maintenance.status(session, "pc1:2379")
    assert not await maintenance.answers_reads(session, "pc1:2379")
    with pytest.raises(type(error)):
        await maintenance.defragment(session, "pc1:2379")
    with pytest.raises(type(error)):
        await maintenance.move_leader(session, "pc1:2379", 8)


async def test_the_member_that_is_named_is_called() -> None:
    session: Any = Session(None)
    await maintenance.defragment(session, "pc1:2379")
    await maintenance.move_leader(session, "pc2:2379", 8)
    assert session.calls == [
        ("pc1:2379", "Maintenance/Defragment", pb.DefragmentRequest()),
        ("pc2:2379", "Maintenance/MoveLeader", pb.MoveLeaderRequest(targetID=8)),
    ]


async def test_a_user_without_the_right_to_read() -> None:
    session: Any = Session(Denied("permission denied"))
    with pytest.raises(Denied):
        await maintenance.answers_reads(session, "pc1:2379")
