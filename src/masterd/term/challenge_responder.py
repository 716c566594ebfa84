"""Answers the challenges of standbys with fenced writes, which prove that the term can still commit."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from masterd.replication.cluster_view import ClusterView
from nodestore.cluster.election import Fence
from nodestore.errors import LeadershipLost, NodectlError
from nodestore.etcd.session import Etcd, op_get, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Answer

log = logging.getLogger(__name__)

_ATTEMPT_S = 1.0


class ChallengeResponder:
    """Answers standbys' challenges for one term."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence, cluster_view: ClusterView) -> None:
        self._etcd, self._keys, self._fence, self._cluster_view = etcd, keys, fence, cluster_view
        self._unanswered: dict[str, None] = {}
        self._wake = asyncio.Event()

    async def run(self) -> NoReturn:
        """Answer every challenge of this term until cancelled. Raises LeadershipLost when the term is over."""
        stop = self._cluster_view.challenges.subscribe(self._enqueue)
        try:
            for master in self._cluster_view.challenges.items:
                self._enqueue(master)
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._unanswered:
                    master = next(iter(self._unanswered))
                    del self._unanswered[master]
                    await self._answer(master)
        finally:
            stop()

    def _enqueue(self, master: str) -> None:
        self._unanswered[master] = None
        self._wake.set()

    async def _answer(self, master: str) -> None:
        """Write the answer. A failed attempt is logged and not retried, because the standby sends a new challenge."""
        challenge = self._cluster_view.challenges.items.get(master)
        if challenge is None or challenge.term != self._fence.term.revision:
            return
        put = op_put(self._keys.answer(master), Answer(term=challenge.term, nonce=challenge.nonce).encode())
        try:
            result = await self._etcd.txn(
                self._fence.compares(self._keys), [put], [op_get(self._keys.leader)],
                timeout_s=_ATTEMPT_S, repeatable=True,
            )  # fmt: skip
        except LeadershipLost:
            raise
        except NodectlError as error:
            log.warning("could not answer the challenge of %s: %s", master, error)
            return
        if not result.succeeded:
            raise LeadershipLost(f"term {self._fence.term} is over")
        log.info("answered the challenge of %s, which does not receive our heartbeats", master)
