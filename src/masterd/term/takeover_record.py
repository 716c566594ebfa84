"""Writes into a term's record how its takeover went, once it serves: what `nodectl why` shows."""

from __future__ import annotations

import asyncio
import logging
import time

from masterd.election.timeline import TakeoverPhase, Timeline
from nodestore.cluster.election import Fence
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, cmp_mod, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import TermRecord, decode
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_FIRST_ANSWER_S = 2.0


class TakeoverRecord:
    """The leader's, for one term."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence, timeline: Timeline) -> None:
        self._etcd, self._keys, self._fence, self._timeline = etcd, keys, fence, timeline
        self._answered = asyncio.Event()

    def mark(self, phase: TakeoverPhase) -> None:
        """This has happened just now. Only the first time counts."""
        if phase not in self._timeline.marks:
            self._timeline.mark(phase, time.monotonic())
            if phase == "first_answer":
                self._answered.set()

    async def write_after_first_answer(self) -> None:
        """Write it once, after the first answer, or when none is asked for in a while; then wait until cancelled."""
        if not await set_within(self._answered, _FIRST_ANSWER_S):
            log.debug("nobody asked for anything yet")
        try:
            await self._write()
        except NodectlError as error:
            log.debug("the takeover is not in the history: %s", error)
        await asyncio.Event().wait()

    async def _write(self) -> None:
        """Fenced, and comparing the record: a resignation writes it too."""
        found = await self._etcd.get(self._keys.term(self._fence.nonce))
        if found is None:
            return
        told = {"phases": self._timeline.phases(), "suspected_by": self._timeline.suspected_by}
        record = decode(TermRecord, found.value, found.key).model_copy(update=told)
        compares = [*self._fence.compares(self._keys), cmp_mod(found.key, found.mod_revision)]
        await self._etcd.txn(compares, [op_put(found.key, record.encode())], repeatable=True)
