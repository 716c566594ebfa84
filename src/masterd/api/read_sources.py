"""The data sources of the handlers for reads and event streams, and the views of nodes made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from masterd.api.cluster_problems import waiting_nodeds
from masterd.api.node_views import node_view
from masterd.api.secret_views.hiding import NodeSecrets, SecretMarks
from masterd.application.contract import Application
from masterd.replication.claim_changes import ClaimChanges
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.replication.snapshots import Snapshots
from masterd.roles.health import MasterHealth
from masterd.roles.leadership import Leadership
from masterd.upkeep.store_scan import StoreScan
from nodestore.etcd.session import Etcd
from nodestore.schema.api_types import NodeView
from nodestore.schema.keys import Keys


@dataclass(frozen=True, slots=True)
class ReadSources:
    """The parts of masterd that reads use. A read changes none of them."""

    own_id: str
    """The name of this masterd."""
    keys: Keys
    etcd: Etcd
    maintenance: Etcd
    """The session for calls that etcd may allow only to root, such as the list of its members."""
    cluster_view: ClusterView
    replica: Replica
    snapshots: Snapshots
    application: Application
    leadership: Leadership
    health: MasterHealth
    store_scan: StoreScan
    claim_changes: ClaimChanges
    secret_marks: SecretMarks

    async def secrets(self) -> NodeSecrets:
        """Hides the fields that are secret at present."""
        fields = await self.secret_marks.fields(self.replica.state.inventory)
        desired = self.cluster_view.desired
        return NodeSecrets(
            fields,
            desired.items or {},
            marks_known=self.secret_marks.are_known,
            are_orders_current=desired.is_current,
        )

    def node_view(self, name: str) -> NodeView:
        """The view of one configured node. Its desired state is the one that `cluster_view.desired` read last."""
        return self._node_view(name, waiting_nodeds(self.cluster_view.waiting.items))

    def node_views(self) -> list[NodeView]:
        """The views of all configured nodes, in the inventory's order."""
        waiting = waiting_nodeds(self.cluster_view.waiting.items)
        return [self._node_view(name, waiting) for name in self.replica.state.inventory.nodes]

    def _node_view(self, name: str, waiting: Mapping[str, list[str]]) -> NodeView:
        view, state = self.cluster_view, self.replica.state
        return node_view(
            name, state.inventory, state, view.status.items, view.alive.items, self.application,
            self.leadership.spec_failures, view.desired.items, waiting.get(name, ()),
        )  # fmt: skip
