"""Writes `status/<node>`: only what is new, only while the node is ours, never holding up the work."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import NoReturn

from noded.registration.claim import NodeClaim
from noded.registration.follow_key import RETRY_FIRST_S, RETRY_MAX_S
from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, cmp_mod, op_get, op_put
from nodestore.schema.models import Status, decode_or_none
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_WRITE_EVERY_S = 0.25
_FLUSH_TIMEOUT_S = 1.0


class StatusReporter:
    """Keeps `key` equal to the newest status given. Older ones that were not yet written are dropped.

    Each write compares our claim, so a noded that was replaced writes nothing; and the status as we last knew it, so
    that a write of ours which etcd received late cannot replace a newer one.
    """

    def __init__(self, etcd: Etcd, key: str, alive_key: str, claim: NodeClaim) -> None:
        self._etcd = etcd
        self._key = key
        self._alive_key = alive_key
        self._claim = claim
        self._newest: Status | None = None
        self._written: Status | None = None
        self._revision: int | None = None  # of the status in etcd; None: not known
        self._log_once = RateLimitedLog(log, math.inf)
        self._wake = asyncio.Event()

    def report(self, status: Status) -> None:
        """Make this what etcd shows, when it can be done. Its time is set here."""
        self._newest = status
        self._wake.set()

    def on_claim_changed(self) -> None:
        """To be called when the claim is another one: what could not be written may be possible now, and what was
        written may be gone with a store that was restored."""
        self._forget_written()
        self._wake.set()

    def _forget_written(self) -> None:
        self._written = self._revision = None

    async def write_statuses(self) -> NoReturn:
        """Write what is reported, for ever. Outages are waited out."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._write()
                backoff.reset()
                await asyncio.sleep(_WRITE_EVERY_S)  # a driver that flaps shall not wear out etcd's disk
                continue
            except NodectlError as error:
                self._log_unless_outage(error)
            self._wake.set()
            await asyncio.sleep(backoff.next_s())

    async def flush(self) -> None:
        """Write what is still waiting, within a second or not at all."""
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await self._write()
        except (NodectlError, TimeoutError) as error:
            log.warning("the last status was not written: %s", error or "etcd did not answer in time")

    async def _write(self) -> None:
        """Bring etcd up to date, or leave it when the node is not ours. NodectlError when that stays open."""
        claim, status = self._claim.claim_revision, self._newest
        if claim is None or status is None or status.same_but_for_time(self._written):
            return
        if self._revision is None:
            found = await self._etcd.get(self._key)
            self._revision = found.mod_revision if found is not None else 0
            if status.same_but_for_time(decode_or_none(Status, found)):
                self._written = status
                return
        status = status.model_copy(update={"time": round(time.time(), 3)})
        compares = [cmp_mod(self._alive_key, claim), cmp_mod(self._key, self._revision)]
        self._forget_written()  # whatever happens below but success leaves open what etcd has
        result = await self._etcd.txn(compares, [op_put(self._key, status.encode())], [op_get(self._alive_key)])
        self._log_once.reset()
        if result.succeeded:
            self._revision, self._written = result.revision, status
            return
        alive = result.range(0).first
        if alive is not None and alive.mod_revision == claim:  # then it was the status that is another one
            self._wake.set()

    def _log_unless_outage(self, error: NodectlError) -> None:
        if not isinstance(error, Unavailable | OutcomeUnknown):  # an outage is no complaint
            self._log_once.log(logging.WARNING, f"status not written: {error}")
