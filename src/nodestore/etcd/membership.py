"""Changes of etcd's members. With access control they need root. etcd fences none of them.

Each function may be repeated, also after a lost answer: what is so already is no error. A late copy of a call names a
member by its id, which is never used again, or adds a learner, which has no vote.
"""

from __future__ import annotations

from collections.abc import Awaitable

from google.protobuf.message import Message

from nodestore.errors import NodectlError, Unavailable
from nodestore.etcd import maintenance
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import Member, RetryPolicy, host_port

CALL_S = 5.0
"""How long one change may take."""
_NOT_YET = ("in sync with leader", "unhealthy cluster", "too many learner members", "not enough started members")


class NotYet(NodectlError):
    """etcd refuses a change for now: a member is not healthy, or a learner has not caught up."""


async def add_learner(etcd: Etcd, peer_url: str) -> None:
    """Add a member without a vote at this peer URL, unless a member has this URL. Raises NotYet."""
    await _change(etcd, "MemberAdd", pb.MemberAddRequest(peerURLs=[peer_url], isLearner=True), ("peer urls",))


async def promote(etcd: Etcd, member: int) -> None:
    """Give a learner its vote. NotYet while it has not caught up.

    The call goes to etcd's leader itself: with access control on, a member that passes it on does so without the user,
    and repeats what the leader refuses until the call times out.
    """
    endpoint, request = await _leader_endpoint(etcd), pb.MemberPromoteRequest(ID=member)
    await _settled(etcd.call_member(endpoint, "Cluster/MemberPromote", request, CALL_S), ("promote a learner",))


async def remove(etcd: Etcd, member: int) -> None:
    """Remove a member. NotYet if too few members would be left that run."""
    await _change(etcd, "MemberRemove", pb.MemberRemoveRequest(ID=member), ("member not found",))


async def current_members(etcd: Etcd) -> tuple[Member, ...]:
    """The members as a quorum knows them. Unavailable without a quorum."""
    response = await etcd.call(
        "Cluster/MemberList", pb.MemberListRequest(linearizable=True), retry=RetryPolicy.FREELY, timeout_s=CALL_S
    )
    return maintenance.members_from_pb(response)


async def _leader_endpoint(etcd: Etcd) -> str:
    """The endpoint of etcd's leader. Unavailable if it is not among those of the session, or there is none."""
    found = await maintenance.status(etcd, etcd.endpoint)
    leader = next((item for item in await maintenance.members(etcd) if item.id == found.leader), None)
    for url in () if leader is None else leader.client_urls:
        if (address := host_port(url)) in etcd.settings.endpoints:
            return address
    raise Unavailable("etcd has no leader, or it is not among the endpoints")


async def _change(etcd: Etcd, method: str, request: Message, harmless: tuple[str, ...]) -> None:
    await _settled(etcd.call(f"Cluster/{method}", request, timeout_s=CALL_S), harmless)


async def _settled(call: Awaitable[object], harmless: tuple[str, ...]) -> None:
    try:
        await call
    except Unavailable:
        raise
    except NodectlError as error:
        text = str(error)
        if any(part in text for part in _NOT_YET):
            raise NotYet(text.removeprefix("etcd: ")) from None
        if not any(part in text.lower() for part in harmless):
            raise
