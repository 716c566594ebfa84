"""What is done to etcd itself, not in it: alarms, free pages, backups. Where etcd has users, mostly root's alone."""

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
    """An alarm that a member has raised; it stands until somebody disarms it."""

    member: int
    kind: str
    """NOSPACE or CORRUPT."""


async def alarms(etcd: Etcd) -> tuple[Alarm, ...]:
    """All alarms that stand. Any user may ask. Unavailable without a majority of the members."""
    try:
        response = await etcd.call("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.GET))
    except OutcomeUnknown as error:  # nothing was to happen
        raise Unavailable(str(error)) from None
    return tuple(Alarm(item.memberID, pb.AlarmType.Name(item.alarm)) for item in response.alarms)


async def disarm(etcd: Etcd, alarm: Alarm) -> None:
    """Take the alarm back. A member without room raises it again at the next write."""
    request = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=alarm.member, alarm=alarm.kind)
    await etcd.call("Maintenance/Alarm", request)


async def answers_reads(etcd: Etcd, endpoint: str, timeout_s: float = _ALARM_TIMEOUT_S) -> bool:
    """Whether that member answers a read from its own database, which it does not while it defragments.

    Denied when the user may not read at all.
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
    """That member's whole database, as `etcdctl snapshot save` writes it: the last 32 bytes are the SHA-256 of the
    rest. Use it with `contextlib.aclosing`. Unavailable when it breaks off."""
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
