"""Shows in `waiting/<node>/<nonce>` that this noded waits, because another host holds the claim of its node.

The key is attached to noded's lease, so it ends with the process. It compares the claim that was found, so a late copy
fails once this noded holds the claim; the transaction that writes our claim deletes it. It is only information: a noded
whose user may not write the key waits without it.
"""

from __future__ import annotations

import logging
import os
import socket
import time

from nodestore.errors import LeaseLost, NodectlError, Unavailable
from nodestore.etcd.session import KV, Etcd, Op, cmp_mod, op_delete, op_put
from nodestore.schema.models import Waiting

log = logging.getLogger(__name__)


class WaitingNotice:
    """The notice of one noded. key: `waiting/<node>/<nonce>`."""

    def __init__(self, etcd: Etcd, key: str, host_id: str, nonce: str) -> None:
        self._etcd, self._key, self._host_id, self._nonce = etcd, key, host_id, nonce
        self._since: float | None = None
        self._is_shown = False
        self._is_refused = False

    async def show(self, claim: KV, lease: int) -> None:
        """Write the notice. Raises Unavailable, after which the call must be repeated, and LeaseLost."""
        if self._is_refused:
            return
        self._since = self._since or time.time()
        waiting = Waiting(
            host_id=self._host_id, nonce=self._nonce, host=socket.gethostname(), pid=os.getpid(), since=self._since
        )  # fmt: skip
        put = op_put(self._key, waiting.encode(), lease=lease)
        try:
            # repeatable: a copy writes the same value, and fails once the claim is another one
            done = await self._etcd.txn([cmp_mod(claim.key, claim.mod_revision)], [put], repeatable=True)
        except (Unavailable, LeaseLost):  # neither shows whether this user may write the key
            raise
        except NodectlError as error:
            self._is_refused = True
            log.warning("cannot show in etcd that this noded waits: %s", error)
            return
        if done.succeeded:  # if not, the claim has changed: the caller's watch reports it
            self._is_shown = True

    def end(self) -> list[Op]:
        """The operations that end the notice; empty if it was never written."""
        self._since = None
        if not self._is_shown:
            return []
        self._is_shown = False
        return [op_delete(self._key)]
