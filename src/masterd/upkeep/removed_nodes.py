"""Deletes the keys of nodes that left the inventory: `status/<node>` and `acted/<node>`.

A status outlives its node for a while, because operators look for the last error of a node that they removed. Who can
act between the decision and the delete: a noded that claims the node again, or a leader that gives it an action. The
transaction compares that neither has happened, so a late copy of it deletes nothing of a node that is in use.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NoReturn

from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from nodestore.cluster.election import Fence
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, cmp_mod, op_delete
from nodestore.schema.keys import Keys
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

KEEP_S = 3_600.0
_CHECK_EVERY_S = 60.0


class RemovedNodes:
    """Deletes keys of removed nodes for one term, an hour after this leader first saw that a node is gone."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        fence: Fence,
        replica: Replica,
        cluster_view: ClusterView,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._etcd, self._keys, self._fence = etcd, keys, fence
        self._replica, self._cluster_view, self._clock = replica, cluster_view, clock
        self._gone_since: dict[str, float] = {}
        self._limited_log = RateLimitedLog(log, 600.0)

    async def run(self) -> NoReturn:
        """Check every minute. Never returns; errors are logged, and other writes find out that the term is over."""
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            try:
                await self.check()
            except NodectlError as error:
                self._limited_log.log(logging.WARNING, f"cannot delete the keys of removed nodes: {error}")

    async def check(self) -> None:
        """Delete the keys of each node that has been gone for an hour. Raises NodectlError."""
        now = self._clock()
        self._gone_since = {name: self._gone_since.get(name, now) for name in self._gone()}
        for name in [name for name, since in self._gone_since.items() if now - since >= KEEP_S]:
            await self._delete(name)

    def _gone(self) -> set[str]:
        """The nodes with keys that are not in the inventory, have no noded and no pending action."""
        view, state = self._cluster_view, self._replica.state
        return (
            (view.status.items.keys() | view.acted.items.keys())
            - state.inventory.nodes.keys()
            - view.alive.items.keys()
            - state.actions.keys()
        )

    async def _delete(self, name: str) -> None:
        keys = self._keys
        unused = [cmp_mod(keys.alive_of(name), 0), cmp_mod(keys.actions_of(name), 0), cmp_mod(keys.desired_of(name), 0)]
        deletes = [op_delete(keys.status_of(name)), op_delete(keys.acted_of(name))]
        done = await self._etcd.txn([*self._fence.compares(keys), *unused], deletes, repeatable=True)
        if done.succeeded:
            log.info("deleted the status and the action results of node %s, which left the inventory", name)
