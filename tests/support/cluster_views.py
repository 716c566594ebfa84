"""A cluster view whose `leader` a test sets."""

from __future__ import annotations

from masterd.replication.cluster_view import ClusterView
from nodestore.etcd.session import KV


class SteeredClusterView(ClusterView):
    """A `ClusterView` with the inputs of its watch as methods."""

    def show_leader(self, kv: KV | None) -> None:
        """Show this value of `leader`, as the watch would, however old it is. None: the key is absent."""
        self._set_leader(kv)

    @property
    def subscriber_count(self) -> int:
        """How many callbacks are subscribed."""
        return len(self._subscribers) + len(self._subscribers_but_nodes)
