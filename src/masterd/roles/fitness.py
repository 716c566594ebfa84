"""Whether this masterd is fit to lead, and why not. Published in its candidacy, and used by its own campaign."""

from __future__ import annotations

import time

from masterd.application.identity import refusal_to_lead
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import NOT_READ, Replica
from masterd.roles.leadership import Leadership
from masterd.roles.rehearsal import Rehearsal

_START_S = 5.0
"""A masterd that has not read the journal for this long since its start is unfit."""
_GIVE_UP_S = 60.0
"""A masterd that gave up a term is unfit for this long. After that it is worth another attempt."""


class MasterFitness:
    """The fitness of this masterd. It implements `masterd.election.fitness.Fitness`."""

    def __init__(
        self,
        application: str,
        *,
        leadership: Leadership,
        cluster_view: ClusterView,
        replica: Replica,
        rehearsal: Rehearsal,
    ) -> None:
        """application: the name of this masterd's application."""
        self._application, self._leadership, self._cluster_view = application, leadership, cluster_view
        self._replica, self._rehearsal = replica, rehearsal
        self._begun_at = time.monotonic()

    @property
    def barred(self) -> str | None:
        """Why this masterd must not lead, not even as the only one; None if it may."""
        return refusal_to_lead(self._application, self._replica.state.application, self._cluster_view.application_order)

    @property
    def unfit(self) -> str | None:
        """Why every other candidate should lead rather than this one; None if it is fit. Includes `barred`."""
        return self.barred or self._replica_problem or self._give_up_reason or self._rehearsal.problem

    @property
    def _replica_problem(self) -> str | None:
        problem = self._replica.problem
        if problem == NOT_READ and time.monotonic() < self._begun_at + _START_S:
            return None  # it has just been started
        return problem

    @property
    def _give_up_reason(self) -> str | None:
        given_up_at = self._leadership.given_up_at
        if given_up_at is None or time.monotonic() > given_up_at + _GIVE_UP_S:
            return None
        return self._leadership.give_up_reason
