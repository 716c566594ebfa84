"""Writes the timeline of a takeover into its term's record, for `nodectl why`."""

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
    """Completes the timeline of one takeover and writes it once. serving: set while the leader serves clients."""

    def __init__(self, etcd: Etcd, keys: Keys, fence: Fence, timeline: Timeline, serving: asyncio.Event) -> None:
        self._etcd, self._keys, self._fence, self._timeline = etcd, keys, fence, timeline
        self._serving = serving
        self._answered = asyncio.Event()
        self._had_request = False
        """Whether a client has sent a request in this term."""

    def note_serving(self) -> None:
        """Record that the leader serves.

        If a request has waited for this, also record that the phase `found` (a client has found the leader) is reached.
        """
        self._mark("serving")
        if self._had_request:
            self._mark("found")

    def note_request(self) -> None:
        """Record that a client has sent a request to this leader."""
        if self._serving.is_set():
            self._mark("found")
        self._had_request = True

    def note_answer(self) -> None:
        """Record that a client has got an answer.

        An answer before the leader serves is not recorded. It can only be that of a read, which does not show that the
        leader can commit.
        """
        if self._serving.is_set():
            self._mark("first_answer")

    def _mark(self, phase: TakeoverPhase) -> None:
        """Record that this phase is reached now. Only the first call for a phase counts."""
        if phase not in self._timeline.marks:
            self._timeline.mark(phase, time.monotonic())
            if phase == "first_answer":
                self._answered.set()

    async def write_after_first_answer(self) -> None:
        """Write the timeline after the first answer, at the latest after _FIRST_ANSWER_S; then wait until cancelled."""
        if not await set_within(self._answered, _FIRST_ANSWER_S):
            log.debug("no client has got an answer in the first %g s of service", _FIRST_ANSWER_S)
        try:
            await self._write()
        except NodectlError as error:
            log.debug("could not write the timeline of the takeover: %s", error)
        await asyncio.Event().wait()

    async def _write(self) -> None:
        """Write the timeline, fenced. The record itself is compared, because a resignation writes it too."""
        found = await self._etcd.get(self._keys.term(self._fence.nonce))
        if found is None:
            return
        measured = {"phases": self._timeline.phases(), "suspected_by": self._timeline.suspected_by}
        record = decode(TermRecord, found.value, found.key).model_copy(update=measured)
        compares = [*self._fence.compares(self._keys), cmp_mod(found.key, found.mod_revision)]
        await self._etcd.txn(compares, [op_put(found.key, record.encode())], repeatable=True)
