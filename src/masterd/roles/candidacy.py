"""The candidacy of this masterd: its key candidates/<id>, kept by its lease.

The key shows other masterds that this one could take over, and how it ranks. It also ensures that a name is used only
once: a masterd waits while a masterd on another host holds its name, and it ends if another process has replaced its
candidacy.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable
from typing import NoReturn

from masterd.election.campaign import MasterIdentity
from masterd.replication.cluster_view import KeyMirror
from masterd.replication.pc_clocks import CLOCK_EVERY_S
from masterd.replication.replica import Replica
from masterd.roles.self_report import SelfReport
from nodestore import __version__
from nodestore.cluster.store_identity import StoreIdentity
from nodestore.errors import LeaseLost, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd, cmp_create, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, decode_or_none
from nodestore.support.logs import RateLimitedLog
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_REFRESH_EVERY_S = 2.0
_RETRY_S = 0.2


class NameTaken(NodectlError):
    """Another process took this masterd's name, so this process must end."""

    code = "usurped"


class Candidacy:
    """Writes candidates/<id> and keeps it up to date. Each new lease needs another call of `announce`."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        me: MasterIdentity,
        *,
        candidates: KeyMirror[Candidate],
        replica: Replica,
        hosts_etcd_leader: Callable[[], bool],
        self_report: Callable[[], SelfReport],
        changed: asyncio.Event,
        warning: Callable[[], str | None] = lambda: None,
        wall_clock: Callable[[], float] = time.time,
        store: StoreIdentity | None = None,
    ) -> None:
        """self_report: returns what this masterd publishes about its own condition. changed: other parts set this event
        when a value of the candidacy has changed, to have it written at once."""
        self._etcd, self._key, self._me = etcd, keys.candidate(me.id), me
        self._candidates, self._replica, self._hosts_etcd_leader = candidates, replica, hosts_etcd_leader
        self._self_report, self._changed, self._warning, self._store = self_report, changed, warning, store
        self._wall_clock = wall_clock
        self._was_accepted = False
        """Whether etcd has ever accepted this candidacy. From then on no refusal ends this process."""

    def raise_if_refused(self, error: NodectlError) -> None:
        """Raise `error` if it is a refusal by etcd and etcd has not accepted the candidacy yet; else return.

        Wrong credentials must end the process at its start. After the first acceptance the caller retries every error.
        """
        if not self._was_accepted and not isinstance(error, Unavailable | OutcomeUnknown):
            raise error

    async def announce(self, lease: Lease) -> int:
        """Write candidates/<id> and return its revision. Raises LeaseLost if the lease expires first.

        Waits while a masterd of another host holds the name. An earlier process of the same host is overwritten.
        """
        limited_log, log_once = RateLimitedLog(log), RateLimitedLog(log, math.inf)
        while True:
            try:
                current = await self._etcd.get(self._key)
                holder = decode_or_none(Candidate, current)
                if holder is not None and holder.host != self._me.host:
                    line = f"a masterd named {holder.id} already runs on {holder.host}: waiting until it ends"
                    log_once.log(logging.ERROR, line, about="name taken")
                elif (revision := await self._put(lease, 0 if current is None else current.mod_revision)) is not None:
                    self._was_accepted = True
                    return revision
            except LeaseLost:
                raise
            except NodectlError as error:
                self.raise_if_refused(error)
                limited_log.log(logging.WARNING, f"cannot write the candidacy yet: {error}", about=error.code)
            if lease.left_s <= 0:
                raise LeaseLost("it expired before the candidacy was written")
            await asyncio.sleep(_RETRY_S)

    async def keep_fresh(self, lease: Lease, revision: int) -> NoReturn:
        """Keep the candidacy up to date. Raises NameTaken if another process took this masterd's name."""
        unsubscribe = self._candidates.subscribe(self._on_candidate_changed)
        try:
            await self._refresh(lease, revision)
        finally:
            unsubscribe()

    @property
    def _priority(self) -> int:
        """The priority of --priority, or else of the adopted configuration, or else 0."""
        if self._me.priority is not None:
            return self._me.priority
        adopted = self._replica.state.adopted
        ours = adopted.inventory.masters.get(self._me.id) if adopted is not None else None
        return ours.priority if ours is not None else 0

    def _candidate(self) -> Candidate:
        return Candidate(
            id=self._me.id, host=self._me.host, urls=self._me.urls, index=self._replica.index,
            priority=self._priority, nonce=self._me.nonce, version=__version__, pid=os.getpid(),
            beside_etcd_leader=self._hosts_etcd_leader(), warning=self._warning(), clock=round(self._wall_clock(), 3),
            **self._self_report().fields(),
            store=self._store.mark if self._store is not None else None,
        )  # fmt: skip

    async def _put(self, lease: Lease, revision: int) -> int | None:
        """Write the candidacy if its key is still at `revision` (0: absent), and return the key's new revision.

        If an earlier attempt of this process has written it already, its revision is returned. None if the key was
        changed by another process, or deleted.
        """
        compare = cmp_mod(self._key, revision) if revision else cmp_create(self._key, 0)
        put = op_put(self._key, self._candidate().encode(), lease=lease.id)
        result = await self._etcd.txn([compare], [put], [op_get(self._key)], repeatable=True)
        if result.succeeded:
            return result.revision
        current = result.range(0).first
        holder = decode_or_none(Candidate, current)
        if current is not None and holder is not None and holder.nonce == self._me.nonce:
            return current.mod_revision
        return None

    def _on_candidate_changed(self, name: str) -> None:
        """Check the candidacy at once if another process wrote one under this masterd's name, or deleted it."""
        if name == self._me.id and not self._is_own():
            self._changed.set()

    def _is_own(self) -> bool:
        """Whether the watch shows this process's candidacy. If it was deleted, it is written again."""
        candidate = self._candidates.items.get(self._me.id)
        return candidate is not None and candidate.nonce == self._me.nonce

    async def _refresh(self, lease: Lease, revision: int) -> NoReturn:
        """Write the candidacy whenever one of its values changed, at most every 2 s unless `changed` is set.

        It is also written every 10 s, so that the reading of the wall clock that it holds is never older. The period is
        measured by the monotonic clock: a wall clock that is stepped changes nothing.
        """
        written: Candidate | None = None
        written_at = 0.0
        while True:
            await set_within(self._changed, _REFRESH_EVERY_S)
            self._changed.clear()
            new = self._candidate()
            refused = self._etcd.refusal is not None  # then write even without a change: success clears the refusal
            current_clock = time.monotonic() < written_at + CLOCK_EVERY_S
            if _same_condition(new, written) and current_clock and not refused and self._is_own():
                continue
            try:
                new_revision = await self._put(lease, revision)
                if new_revision is None:
                    revision = await self._check_not_replaced()
                    continue
            except (LeaseLost, NameTaken):
                raise
            except NodectlError as error:
                log.debug("candidacy not refreshed: %s", error)
                continue
            revision, written, written_at = new_revision, new, time.monotonic()

    async def _check_not_replaced(self) -> int:
        """Return the present revision of the key, 0 if it is absent. Raises NameTaken if it holds the candidacy of
        another process. Called after the key was found at a revision that this process did not write."""
        # An absent key means that the lease expired in etcd: the next keepalive or put raises LeaseLost.
        current = await self._etcd.get(self._key)
        holder = decode_or_none(Candidate, current)
        if holder is not None and holder.nonce != self._me.nonce:
            raise NameTaken(f"another process has taken the name {self._me.id}: this process ends")
        return 0 if current is None else current.mod_revision


def _same_condition(new: Candidate, written: Candidate | None) -> bool:
    """Whether both are equal apart from the clock, and from the revision of the store, which every write changes."""
    if written is None or (new.store is not None and not new.store.is_same_store(written.store)):
        return False
    return new == written.model_copy(update={"clock": new.clock, "store": new.store})
