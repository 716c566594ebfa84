"""The present role of this masterd, in one object. Only `Master` changes it; all other parts read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from masterd.term.leader import Leader
from nodestore.etcd.lease import Lease
from nodestore.schema.api_types import Role
from nodestore.schema.models import Term


class Leadership:
    """The present role of this masterd. Only `Master` changes it."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        """The leader role, from the beginning of a term to its end; None on a standby."""
        self.lease: Lease | None = None
        """The lease of the candidacy and, in a term, of the key `leader`; None before etcd has granted one."""
        self.give_up_reason: str | None = None
        """Why the most recent term was given up; None once another term has begun."""
        self.given_up_at: float | None = None
        """When the most recent term was given up, by the monotonic clock."""
        self.given_up_term: Term | None = None
        """The term that was given up last."""

    @property
    def role(self) -> Role:
        return "leader" if self.leader is not None else "standby"

    @property
    def term(self) -> Term | None:
        """The term of this leader; None on a standby."""
        return None if self.leader is None else self.leader.fence.term

    @property
    def is_serving(self) -> bool:
        """Whether this masterd serves as the leader, as far as it knows."""
        return self.leader is not None and self.leader.serving.is_set() and not self.leader.has_ended

    @property
    def config_rejection(self) -> tuple[int, str] | None:
        """mod_revision of config/current and why this leader does not adopt it; None if it does, or on a standby."""
        return None if self.leader is None else self.leader.config_rejection

    @property
    def spec_failures(self) -> Mapping[str, str]:
        """By node: why this leader cannot derive its spec; empty on a standby."""
        return {} if self.leader is None else self.leader.spec_failures

    @property
    def stuck_s(self) -> float:
        """For how many seconds this masterd has waited for etcd. Heartbeats report it, so that a standby that can still
        reach etcd challenges this leader."""
        waiting_s = self.leader.stuck_s if self.leader is not None else 0.0
        return max(waiting_s, self.lease.overdue_s if self.lease is not None else 0.0)

    def confirmation(self) -> Callable[[], Awaitable[None]] | None:
        """The function that confirms this masterd's term through etcd; None while it does not serve as leader."""
        return self.leader.verify_leader if self.leader is not None and self.leader.serving.is_set() else None
