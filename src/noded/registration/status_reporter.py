"""Writes `status/<node>` in the background: only changes, and only while this noded holds the claim."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import NoReturn

from noded.registration.claim import NodeClaim
from noded.registration.follow_key import RETRY_FIRST_S, RETRY_MAX_S
from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, cmp_mod, op_get, op_put
from nodestore.schema.models import Status, StoreMark, decode_or_none
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_WRITE_EVERY_S = 0.25
_VERIFY_EVERY_S = 15.0
"""Interval of reading the status in etcd: if another program deleted or changed it, it is written again."""
_FLUSH_TIMEOUT_S = 1.0
_CLOCK_EVERY_S, _CLOCK_RETRY_S = 300.0, 5.0
"""An unchanged status is written again after this time, because masterd compares clocks by `time`. The period is
measured by the monotonic clock: a wall clock that is stepped changes nothing."""


class StatusReporter:
    """Keeps `key` equal to the newest reported status. Drops older ones that were not yet written.

    Each write compares the claim, so a noded that was replaced writes nothing. It also compares the revision of
    the status that we last read or wrote, so a write that etcd receives late cannot replace a newer one.
    """

    def __init__(
        self,
        etcd: Etcd,
        key: str,
        alive_key: str,
        claim: NodeClaim,
        store: Callable[[], StoreMark | None] = lambda: None,
    ) -> None:
        """store: returns the store that this noded remembers; each status names it."""
        self._etcd, self._store = etcd, store
        self._key = key
        self._alive_key = alive_key
        self._claim = claim
        self._newest: Status | None = None
        self._written: Status | None = None
        self._written_at = time.monotonic()
        self._revision: int | None = None  # mod_revision of the status in etcd, 0 if absent; None: not known
        self._log_once = RateLimitedLog(log, math.inf)
        self._wake = asyncio.Event()

    def report(self, status: Status) -> None:
        """Schedule a write of `status`, without waiting for it. The write sets `time`."""
        self._newest = status
        self._wake.set()

    def on_claim_changed(self) -> None:
        """Write the status again. To be called when the claim changes.

        A write that failed because we did not hold the claim may succeed now. A store that was restored from a backup
        may lack the status that we wrote.
        """
        self._forget_written()
        self._wake.set()

    def _forget_written(self) -> None:
        self._written = self._revision = None

    async def write_statuses(self) -> NoReturn:
        """Write each reported status, and retry after errors. Never returns."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            clock_s = max(_CLOCK_RETRY_S, self._written_at + _CLOCK_EVERY_S - time.monotonic())
            if not await set_within(self._wake, min(_VERIFY_EVERY_S, clock_s)):
                self._forget_written()
            self._wake.clear()
            try:
                await self._write()
                backoff.reset()
                await asyncio.sleep(_WRITE_EVERY_S)  # limits the writes of a driver whose state changes all the time
                continue
            except NodectlError as error:
                self._log_unless_outage(error)
            self._wake.set()
            await asyncio.sleep(backoff.next_s())

    async def flush(self) -> None:
        """Write the status that is still pending. Give up after a second."""
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await self._write()
        except (NodectlError, TimeoutError) as error:
            log.warning("the last status was not written: %s", error or "etcd did not answer in time")

    async def _write(self) -> None:
        """Write the newest status if the claim is ours. Raises NodectlError if it fails or its outcome is unknown."""
        claim, status = self._claim.claim_revision, self._newest
        if claim is None or status is None:
            return
        status = status.model_copy(update={"store": self._store()})
        clock_due = time.monotonic() >= self._written_at + _CLOCK_EVERY_S
        if status.same_but_for_time(self._written) and not clock_due:
            return
        if self._revision is None:
            current = await self._etcd.get(self._key)
            self._revision = current.mod_revision if current is not None else 0
            if not clock_due and status.same_but_for_time(decode_or_none(Status, current)):
                self._written = status
                return
        status = status.model_copy(update={"time": round(time.time(), 3)})
        compares = [cmp_mod(self._alive_key, claim), cmp_mod(self._key, self._revision)]
        self._forget_written()  # unless the transaction succeeds, we do not know what etcd holds
        result = await self._etcd.txn(compares, [op_put(self._key, status.encode())], [op_get(self._alive_key)])
        self._log_once.reset()
        if result.succeeded:
            self._revision, self._written, self._written_at = result.revision, status, time.monotonic()
            return
        alive = result.range(0).first
        if alive is not None and alive.mod_revision == claim:  # so the status was changed: read it again
            self._wake.set()

    def _log_unless_outage(self, error: NodectlError) -> None:
        if not isinstance(error, Unavailable | OutcomeUnknown):  # an outage ends by itself: not logged
            self._log_once.log(logging.WARNING, f"cannot write the node's status, tries again: {error}")
