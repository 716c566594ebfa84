"""Administration of etcd: alarms and backups. With authentication enabled, most of it requires the root role."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.rpc import RpcFailed, to_nodectl_error
from nodestore.etcd.session import Etcd

_ALARM_TIMEOUT_S = 2.0
_SILENCE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that a member has raised. It stays until it is disarmed."""

    member: int
    kind: str
    """The type of the alarm: NOSPACE or CORRUPT."""


async def alarms(etcd: Etcd) -> tuple[Alarm, ...]:
    """All active alarms. It requires no role. Unavailable without a quorum."""
    try:
        response = await etcd.call("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.GET))
    except OutcomeUnknown as error:  # reading the alarms has no effect
        raise Unavailable(str(error)) from None
    return tuple(Alarm(item.memberID, pb.AlarmType.Name(item.alarm)) for item in response.alarms)


async def disarm(etcd: Etcd, alarm: Alarm) -> None:
    """Disarm the alarm. A member whose database is still full raises it again at the next write."""
    request = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.member, alarm=alarm.kind)
    await etcd.call("Maintenance/Alarm", request)


async def answers_reads(etcd: Etcd, endpoint: str, timeout_s: float = _ALARM_TIMEOUT_S) -> bool:
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
