"""Decides what must run on this PC, from its record and the list of etcd's members. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nodestore.schema.host_models import HostKind, HostState

MemberStep = Literal["run", "begin", "stop", "lost"]
"""run: with the data that are there. begin: as a new member, without data. stop: it is no member. lost: the list has
this PC's member, but its data are gone, so it must be removed before a new one can begin."""
FIRST_MEMBER = 0
"""In place of the id of the member with which the cluster began, until the list of members is known."""


@dataclass(frozen=True, slots=True)
class ListedMember:
    """A member in etcd's list. `name` is empty until it was started for the first time."""

    id: int
    name: str
    peer_url: str
    client_urls: tuple[str, ...]
    learner: bool


@dataclass(frozen=True, slots=True)
class MemberMark:
    """For which membership the data on this PC are. `initial_cluster`: by name the peer URLs when it began."""

    id: int
    initial_cluster: Mapping[str, str]
    existing: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known. `state` and `members`: from etcd, or from the last answer of etcd; None: never known.

    state "removed": etcd has no record of this PC. mark, has_data: of this PC's member.
    """

    host: str
    kind: HostKind
    peer_url: str
    state: HostState | Literal["removed"] | None
    members: Sequence[ListedMember] | None
    mark: MemberMark | None
    has_data: bool


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What must run. `member`: this PC's member in the list, whose id its data must have. `reason`: for the report."""

    etcd: MemberStep
    masterd: bool
    noded: bool
    endpoints: tuple[str, ...] = ()
    member: int = FIRST_MEMBER
    initial_cluster: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def make_plan(facts: Facts, endpoints: Sequence[str]) -> HostPlan:
    """The plan of a pass. endpoints: those to use while the list of members is not known."""
    own = _own_member(facts)
    step = _member_step(facts, own)
    in_service = facts.state not in ("leaving", "removed")
    votes = own is not None and not own.learner if facts.members is not None else facts.mark is not None
    return HostPlan(
        etcd=step,
        masterd=facts.kind == "host" and in_service and facts.state != "drained" and votes and step == "run",
        noded=in_service,
        endpoints=_endpoints(facts, endpoints),
        member=FIRST_MEMBER if own is None else own.id,
        initial_cluster=_initial_cluster(facts) if step == "begin" else {},
        reason=_reason(own, step),
    )


def _own_member(facts: Facts) -> ListedMember | None:
    return next((member for member in facts.members or () if member.peer_url == facts.peer_url), None)


def _member_step(facts: Facts, own: ListedMember | None) -> MemberStep:
    mark = facts.mark
    if facts.members is None:
        return "run" if mark is not None and (facts.has_data or mark.id == FIRST_MEMBER) else "stop"
    if own is None:
        return "stop"
    if mark is not None and mark.id in (own.id, FIRST_MEMBER) and (facts.has_data or not own.name):
        return "run"
    # Data that are gone took the votes of this member with them. With empty data, it could vote a second time.
    return "begin" if own.learner and not own.name else "lost"


def _initial_cluster(facts: Facts) -> dict[str, str]:
    return {member.name or facts.host: member.peer_url for member in facts.members or ()}


def _endpoints(facts: Facts, otherwise: Sequence[str]) -> tuple[str, ...]:
    """The client addresses of the members that vote: this PC's first, then the others in order."""
    voters = [member for member in facts.members or () if not member.learner and member.client_urls]
    voters.sort(key=lambda member: (member.peer_url != facts.peer_url, member.peer_url))
    return tuple(member.client_urls[0].partition("://")[2] for member in voters) or tuple(otherwise)


def _reason(own: ListedMember | None, step: MemberStep) -> str:
    if step == "lost":
        return "its data are lost: the member is removed, and added anew"
    if own is not None and own.learner:
        return "catches up with the other members, without a vote"
    return ""
