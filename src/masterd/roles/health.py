"""The problems of this masterd, described for operators."""

from __future__ import annotations

from masterd.election.fitness import Fitness
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.roles.leadership import Leadership
from masterd.upkeep.etcd_leader_placement import EtcdLeaderPlacement
from masterd.upkeep.space_keeper import SpaceKeeper
from nodestore.cluster.store_identity import StoreIdentity
from nodestore.etcd.session import Etcd
from nodestore.schema.models import StoreMark


class MasterHealth:
    """Collects the problems of this masterd from its parts. Each property is None or a reason in words."""

    def __init__(
        self,
        etcd: Etcd,
        maintenance: Etcd,
        *,
        leadership: Leadership,
        cluster_view: ClusterView,
        replica: Replica,
        space_keeper: SpaceKeeper,
        placement: EtcdLeaderPlacement,
        fitness: Fitness,
        store: StoreIdentity,
    ) -> None:
        self._etcd, self._maintenance, self._leadership = etcd, maintenance, leadership
        self._cluster_view, self._replica = cluster_view, replica
        self._space_keeper, self._placement, self._fitness = space_keeper, placement, fitness
        self._store = store

    @property
    def role_problem(self) -> str | None:
        """Why this masterd cannot follow or lead; None if it can."""
        # A term that this masterd gave up is reported only until a masterd leads.
        given_up = self._leadership.give_up_reason if self._cluster_view.leader.record is None else None
        barred = self._fitness.barred if self._leadership.leader is None else None
        return self._store.problem or self._replica.problem or barred or given_up

    @property
    def store_problem(self) -> str | None:
        """Why etcd is not the store that this masterd remembers; None if it is. Another store is not used."""
        return self._store.problem

    @property
    def store_mark(self) -> StoreMark | None:
        """The store that this masterd remembers."""
        return self._store.mark

    @property
    def store_repairs(self) -> list[str]:
        """What this leader has written again lately, because another program deleted or changed it in etcd."""
        return [] if self._leadership.leader is None else self._leadership.leader.store_repairs

    @property
    def problem(self) -> str | None:
        """The first problem of this masterd, its role, its watches or its maintenance; None if there is none."""
        leader = self._leadership.leader
        return (
            self._etcd.refusal
            or self.role_problem
            or self._cluster_view.watch_error
            or self._space_keeper.problem
            or self._maintenance.refusal
            or (leader.view_problem if leader is not None else self._replica.stray_entry)
            or self._store.save_problem
        )

    @property
    def follows(self) -> bool:
        """Whether this standby follows the journal. A leader need not be known: requests wait for it."""
        hindrance = self.role_problem or self._replica.outage or self._etcd.refusal or self._cluster_view.watch_error
        return self._leadership.leader is None and self._replica.has_read and hindrance is None

    @property
    def problem_or_outage(self) -> str | None:
        """`problem`, or else, on a standby, that etcd does not answer; None if there is neither."""
        outage = self._replica.outage if self._leadership.leader is None else None
        return self.problem or (f"etcd cannot be read: {outage}" if outage else None)

    @property
    def no_leader_reason(self) -> str | None:
        """Why there may be no leader, as far as this masterd knows: a pause, or its own problem; None if neither."""
        paused = self._cluster_view.paused
        reasons = (None if paused is None else paused.text, self.problem_or_outage)
        return "; ".join(reason for reason in reasons if reason is not None) or None

    @property
    def time_problem(self) -> str | None:
        """Why an operator should set the cluster's time; None if it is right, or on a standby."""
        return None if self._leadership.leader is None else self._leadership.leader.time_problem

    @property
    def placement_problem(self) -> str | None:
        """Why etcd's leader is still on this leader's PC; None if it is not."""
        return self._placement.problem

    @property
    def maintenance_refusal(self) -> str | None:
        """Why etcd refuses maintenance calls; None if it does not."""
        return self._maintenance.refusal
