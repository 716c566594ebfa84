"""Passes values of `desired/<node>` on to `Orders` only if they come from the store that this noded knows.

etcd may be emptied or restored under a running noded. Then the key is absent, or holds an older order, and obeying it
would stop or change what runs. So each value that is not plainly the next order is checked by a linearizable read of
the store's identity, which was sent after the value arrived. In another store the present order stays in force.
"""

from __future__ import annotations

import asyncio
import logging
import math

from noded.reconcile.orders import Orders
from nodestore.cluster.store_identity import StoreIdentity
from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd
from nodestore.schema.models import Desired, decode_value_or_none
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_DELETED_S = 2.0
"""How long an absent desired state is not obeyed while one is in force: if another program deleted it, the leader
writes it again within this time."""


class StoreGate:
    """Decides which values `orders` observes."""

    def __init__(self, etcd: Etcd, key: str, store: StoreIdentity, orders: Orders) -> None:
        self._etcd, self._key, self._store, self._orders = etcd, key, store, orders
        self._log_once = RateLimitedLog(log, math.inf)

    async def pass_on(self, value: bytes | None) -> None:
        """Let the orders observe `value`, unless etcd is another store. Waits for etcd if the store must be checked."""
        if value is None and self._orders.desired is not None:
            await asyncio.sleep(_DELETED_S)
            value = await self._read_again()
        if not self._is_next_order(value):
            await self._check()
        self._orders.store_problem = self._store.problem
        if self._store.problem is None:
            self._orders.observe(value)

    def _is_next_order(self, value: bytes | None) -> bool:
        """Whether `value` needs no check: its epoch is the known one, and an earlier value came from this store."""
        mark = self._store.mark
        if value is None or mark is None or self._store.problem is not None or not self._orders.is_known:
            return False
        desired = decode_value_or_none(Desired, value)
        return desired is not None and desired.epoch == mark.epoch

    async def _check(self) -> None:
        """Check the store. If etcd denies the read of `epoch`, the result of the last check stays in force."""
        while True:
            try:
                return await self._store.check()
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(_RETRY_S)
            except NodectlError as error:
                return self._log_once.log(logging.ERROR, f"cannot check which store etcd is: {error}")

    async def _read_again(self) -> bytes | None:
        while True:
            try:
                found = await self._etcd.get(self._key)
            except NodectlError:
                await asyncio.sleep(_RETRY_S)
            else:
                return None if found is None else found.value
