"""`placement`: decides the next change of etcd's members, if there is one. Pure.

Invariants, which tests/unit/hostd/test_placement.py checks for any cluster:

- After a change, the voters that are healthy are a majority of all voters.
- A member is removed only if its PC must not have one, its data are lost, or there are too many members.
- If all PCs stay as they are, the changes come to an end, with an odd number of voters where enough PCs exist.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

GROWS_FROM = 3
"""With fewer PCs there is one member: two members survive no more failures than one."""


@dataclass(frozen=True, slots=True)
class HostView:
    """A PC. `eligible`: it may have a member. `shows`: its hostd reports. `rank`: PCs of a lower rank come first."""

    name: str
    peer_url: str
    eligible: bool
    shows: bool
    lost_member: int = 0
    rank: tuple[float, str] = (0.0, "")


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member in etcd's list. `started`: it was started at least once. `healthy`: it serves now."""

    id: int
    peer_url: str
    learner: bool
    started: bool
    healthy: bool


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Add a member without a vote."""

    host: str
    peer_url: str

    def __str__(self) -> str:
        return f"add a member on {self.host}"


@dataclass(frozen=True, slots=True)
class Promote:
    """Give a learner its vote."""

    host: str
    member: int

    def __str__(self) -> str:
        return f"give the member on {self.host} its vote"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a member."""

    host: str
    member: int
    reason: str

    def __str__(self) -> str:
        return f"remove the member on {self.host} ({self.reason})"


Change = AddLearner | Promote | Remove


def target(eligible: int, wanted: int) -> int:
    """How many members there should be, on so many PCs that may have one. `wanted`: an odd number."""
    if eligible < GROWS_FROM:
        return 1
    return min(wanted, eligible if eligible % 2 else eligible - 1)


def placement(
    hosts: Sequence[HostView], members: Sequence[MemberView], wanted: int, overdue: Collection[int] = ()
) -> Change | None:
    """The next change, or None. overdue: ids of learners whose PC had enough time to start them."""
    return _Placement(hosts, members, wanted, overdue).decide()


class _Placement:
    def __init__(
        self, hosts: Sequence[HostView], members: Sequence[MemberView], wanted: int, overdue: Collection[int]
    ) -> None:
        self._host_at = {host.peer_url: host for host in hosts}
        self._voters = [member for member in members if not member.learner]
        self._learners = [member for member in members if member.learner]
        self._overdue = overdue
        # A voter that no record names was added by hand. It counts, and is never removed.
        self._kept = [member for member in self._voters if self._why_unwanted(member) is None]
        places = {member.peer_url for member in members}
        self._spare = sorted(
            (host for host in hosts if host.eligible and host.shows and host.peer_url not in places),
            key=lambda host: host.rank,
        )
        self._target = target(sum(host.eligible for host in hosts), wanted)

    def decide(self) -> Change | None:
        if self._learners:
            return self._finish(self._learners[0])
        return self._replace_unwanted() or self._grow() or self._shrink()

    def _finish(self, learner: MemberView) -> Change | None:
        reason = self._why_not_promoted(learner)
        if reason is not None:
            return self._removal(learner, reason)
        if (
            learner.started
            and learner.healthy
            and self._is_safe(self._healthy(self._voters) + 1, len(self._voters) + 1)
        ):
            return Promote(self._name(learner), learner.id)
        return None

    def _why_not_promoted(self, learner: MemberView) -> str | None:
        if learner.peer_url not in self._host_at:
            return "no PC of the cluster has its address"
        if learner.id in self._overdue:
            return "its PC did not start it in time"
        if len(self._kept) >= self._target:
            return "it is not needed any more"
        return self._why_unwanted(learner)

    def _replace_unwanted(self) -> Change | None:
        unwanted = [member for member in self._voters if member not in self._kept]
        for member in sorted(unwanted, key=lambda item: (item.healthy, item.id)):
            # One that still serves is needed until its successor has its vote. One that is dead only lowers the quorum.
            successor = self._grow() if member.healthy else None
            change = successor or self._removed_safely(member, self._why_unwanted(member) or "")
            if change is not None:
                return change
        return None

    def _grow(self) -> Change | None:
        if len(self._kept) >= self._target or not self._spare or self._healthy(self._kept) < len(self._kept):
            return None
        if not self._is_safe(self._healthy(self._voters) + 1, len(self._voters) + 1):  # as the promotion will find it
            return None
        return AddLearner(self._spare[0].name, self._spare[0].peer_url)

    def _shrink(self) -> Change | None:
        if len(self._kept) <= self._target:
            return None
        named = [member for member in self._kept if member.peer_url in self._host_at]
        last_first = sorted(named, key=lambda item: (not item.healthy, self._host_at[item.peer_url].rank), reverse=True)
        changes = (self._removed_safely(member, "there are more than needed") for member in last_first)
        return next((change for change in changes if change is not None), None)

    def _removed_safely(self, member: MemberView, reason: str) -> Remove | None:
        rest = [other for other in self._voters if other != member]
        return self._removal(member, reason) if rest and self._is_safe(self._healthy(rest), len(rest)) else None

    def _removal(self, member: MemberView, reason: str) -> Remove:
        return Remove(self._name(member), member.id, reason)

    def _why_unwanted(self, member: MemberView) -> str | None:
        host = self._host_at.get(member.peer_url)
        if host is None:
            return None
        if not host.eligible:
            return "its PC must not have a member any more"
        return "its data are lost" if host.lost_member == member.id else None

    def _name(self, member: MemberView) -> str:
        host = self._host_at.get(member.peer_url)
        return member.peer_url if host is None else host.name

    @staticmethod
    def _healthy(members: Sequence[MemberView]) -> int:
        return sum(member.healthy for member in members)

    @staticmethod
    def _is_safe(healthy: int, voters: int) -> bool:
        return healthy > voters // 2
