"""Administration of etcd: members, leadership, space, alarms, backups. With authentication, most of it needs root.

A function with the parameter `endpoint` addresses the member at that endpoint, which must be one of the session's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from nodestore.errors import Denied, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.rpc import RpcFailed, to_nodectl_error
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import Member, MemberStatus, RetryPolicy, status_from_pb

_READ_TIMEOUT_S = 2.0
_SILENCE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that a member has raised. It stays until it is disarmed."""

    member: int
    kind: str
    """The type of the alarm: NOSPACE or CORRUPT."""


async def members(etcd: Etcd) -> tuple[Member, ...]:
    """The members, as the one in use lists them from its own data: this works without a quorum too."""
    response = await etcd.call(
        "Cluster/MemberList", pb.MemberListRequest(linearizable=False), retry=RetryPolicy.FREELY, needs_leader=False
    )
    return members_from_pb(response)


def members_from_pb(response: pb.MemberListResponse) -> tuple[Member, ...]:
    return tuple(
        Member(item.ID, item.name, tuple(item.clientURLs), tuple(item.peerURLs), item.isLearner)
        for item in response.members
    )


async def status(etcd: Etcd, endpoint: str, *, timeout_s: float = 1.0) -> MemberStatus:
    """The status of the member at `endpoint`. Unavailable if it does not answer."""
    try:
        return status_from_pb(await etcd.call_member(endpoint, "Maintenance/Status", pb.StatusRequest(), timeout_s))
    except OutcomeUnknown as error:  # reading the status has no effect
        raise Unavailable(str(error)) from None


async def check_serving(etcd: Etcd, endpoint: str, *, timeout_s: float = 1.0) -> None:
    """Return if the member at `endpoint` serves linearizable reads, whatever this user may read. Unavailable if not.

    etcd confirms that there is a quorum before it looks at the rights, so a refusal of the key shows the same.
    """
    try:
        await etcd.call_member(endpoint, "KV/Range", pb.RangeRequest(key=b"\0"), timeout_s)
    except Denied:
        return
    except OutcomeUnknown as error:
        raise Unavailable(str(error)) from None


async def move_leader(etcd: Etcd, endpoint: str, target: int, *, timeout_s: float = 2.0) -> None:
    """Hand etcd's leadership from the member at `endpoint`, which must be the leader, to member `target`."""
    await etcd.call_member(endpoint, "Maintenance/MoveLeader", pb.MoveLeaderRequest(targetID=target), timeout_s)


async def defragment(etcd: Etcd, endpoint: str, *, timeout_s: float = 30.0) -> None:
    """Defragment the database of the member at `endpoint`, which answers no other call meanwhile."""
    await etcd.call_member(endpoint, "Maintenance/Defragment", pb.DefragmentRequest(), timeout_s)


async def compact(etcd: Etcd, revision: int, *, physical: bool = False, timeout_s: float | None = None) -> None:
    """Discard all history before `revision`. Compacted if that was done already.

    `physical`: return only once the member that took the call has freed the pages. The others free theirs later.
    """
    await etcd.call("KV/Compact", pb.CompactionRequest(revision=revision, physical=physical), timeout_s=timeout_s)


async def alarms(etcd: Etcd) -> tuple[Alarm, ...]:
    """All active alarms. The call requires no role. Unavailable without a quorum."""
    try:
        response = await etcd.call("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.GET))
    except OutcomeUnknown as error:  # reading the alarms has no effect
        raise Unavailable(str(error)) from None
    return tuple(Alarm(item.memberID, pb.AlarmType.Name(item.alarm)) for item in response.alarms)


async def disarm(etcd: Etcd, alarm: Alarm) -> None:
    """Disarm the alarm. A member whose database is still full raises it again at the next write."""
    request = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.member, alarm=alarm.kind)
    await etcd.call("Maintenance/Alarm", request)


async def answers_reads(etcd: Etcd, endpoint: str, timeout_s: float = _READ_TIMEOUT_S) -> bool:
    """Whether the member at `endpoint` answers a read from its own database. It does not while it defragments.

    Denied if the user may not read.
    """
    request = pb.RangeRequest(key=b"\0", serializable=True, count_only=True)
    try:
        await etcd.call_member(endpoint, "KV/Range", request, timeout_s)
    except (Unavailable, OutcomeUnknown):
        return False
    return True


async def download_database(
    etcd: Etcd, endpoint: str, silence_s: float = _SILENCE_TIMEOUT_S
) -> AsyncGenerator[bytes, None]:
    """Yields the database of the member at `endpoint`, in the format of `etcdctl snapshot save`.

    Its last 32 bytes are the SHA-256 of all bytes before. Unavailable if the download breaks off. Use it with
    `contextlib.aclosing`.
    """
    stream = await etcd.open_download(endpoint, "Maintenance/Snapshot", pb.SnapshotRequest(), timeout_s=silence_s)
    try:
        while True:
            try:
                reply = await stream.receive(silence_s)
            except RpcFailed as failed:
                if failed.code == "ok":
                    return
                raise _download_error(failed) from None
            if reply is None:
                raise Unavailable(f"etcd member {endpoint} has sent nothing for {silence_s:g} s")
            yield reply.blob
    finally:
        await stream.close()


def _download_error(failed: RpcFailed) -> NodectlError:
    error = to_nodectl_error(failed)
    return error if type(error) is not NodectlError else Unavailable(f"etcd member {failed}")
