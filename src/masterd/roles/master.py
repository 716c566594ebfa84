"""The roles of a masterd. `become_leader` and `become_standby` are the only places where the role changes.

       +----------- lease lost, term lost ------------+
       v                                              |
become_standby -- reason to take over, txn won --> become_leader
       ^                                              |
       +------------- resigned, cannot commit --------+
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NoReturn

from masterd.application.contract import Application
from masterd.election.campaign import Campaign, MasterIdentity, by_rank, rank_of
from masterd.election.suspicion import LAN, ElectionTiming
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.roles.handover import hand_over_to_any
from masterd.term.committer import LeaderSettings
from masterd.term.journal import TermBroken
from masterd.term.leader import Leader
from masterd.term.warm_start import WarmStart
from masterd.upkeep.etcd_leader_placement import EtcdLeaderPlacement
from masterd.upkeep.local_member import LocalMember
from masterd.upkeep.space_keeper import SpaceKeeper
from masterd.upkeep.space_plan import SpaceSettings
from masterd.upkeep.store_scan import StoreScan
from nodestore import __version__
from nodestore.cluster.election import TakeoverWon, resign
from nodestore.errors import Garbage, LeadershipLost, LeaseLost, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd, cmp_create, cmp_mod, op_get, op_put
from nodestore.schema.api_types import Role
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, decode_or_none
from nodestore.support.backoff import grown_s
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import CancelledTasks, run_until_first_ends
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_CANDIDATE_EVERY_S = 2.0
_RETRY_S = 0.2
_STAND_DOWN_S = 4.0
_FOLLOW_DELAY_S = 0.1
_SUCCESSORS_MAX = 2
_LEASE_PATIENCE_S = 30.0
"""How long a leader keeps its role after its lease may have expired, while etcd does not answer. This is safe: without
etcd none of its writes takes effect."""
_GIVE_UP_BACKOFF_MAX_S = 30.0
_SERVED_TERM_MIN_S = 5.0  # a term that lasted this long was served, so the back-off starts over


@dataclass(frozen=True)
class MasterSettings:
    """Settings of one masterd's roles."""

    lease_ttl_s: int = 2
    timing: ElectionTiming = LAN
    find_member: Callable[[], Awaitable[LocalMember]] | None = None
    """Finds the etcd member on this PC; None if there is none."""
    leader: LeaderSettings = field(default_factory=LeaderSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    allow_drills: bool = False
    """Whether a request may kill or freeze this leader."""


class NameTaken(NodectlError):
    """Another process took this masterd's name, so this process must end."""

    code = "usurped"


class Master:
    """One masterd: its lease and candidacy, its replica, and its role."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        me: MasterIdentity,
        application: Application,
        settings: MasterSettings,
        wall_clock: Callable[[], float] = time.time,
        maintenance: Etcd | None = None,
    ) -> None:
        """`maintenance` is a session with root's rights in etcd, for maintenance calls; by default it is `etcd`."""
        self.etcd, self.keys, self.me, self.application = etcd, keys, me, application
        self._settings, self._wall_clock = settings, wall_clock
        self.cluster_view = ClusterView(etcd, keys)
        self.replica = Replica(etcd, keys)
        self.timing = settings.timing
        self.campaign = Campaign(etcd, keys, me, self.cluster_view, self.replica, settings.timing)
        self.store_scan = StoreScan(etcd, keys)
        self.maintenance = maintenance or etcd
        self.space_keeper = SpaceKeeper(self.maintenance, etcd, self.cluster_view, settings.space, self._rank)
        self.placement = EtcdLeaderPlacement(
            self.maintenance, settings.find_member, self._leadership_check, self._request_refresh
        )
        self.warm_start = WarmStart(self.replica, application, settings.leader.derive_timeout_s, wall_clock)
        self.campaign.on_takeover_sent = self.warm_start.start
        self._cancelled_tasks = CancelledTasks()
        self._refresh_wanted = asyncio.Event()
        self.leader: Leader | None = None
        self._lease: Lease | None = None
        self._was_admitted = False
        """Whether etcd has ever accepted this candidacy. From then on no refusal ends this process."""
        self._give_up_reason: str | None = None
        self._give_up_count = 0
        self._has_led = False
        self._stopping = False

    @property
    def drills_allowed(self) -> bool:
        return self._settings.allow_drills

    @property
    def role(self) -> Role:
        return "leader" if self.leader is not None else "standby"

    @property
    def stuck_s(self) -> float:
        """For how many seconds this leader has waited for etcd. Heartbeats report it, so that a standby can take over
        if etcd answers that standby."""
        waiting_s = self.leader.stuck_s if self.leader is not None else 0.0
        return max(waiting_s, self._lease.overdue_s if self._lease is not None else 0.0)

    @property
    def role_problem(self) -> str | None:
        """Why this masterd cannot follow or lead; None if it can."""
        # Once another masterd leads, the term that was given up is no problem any more.
        given_up = self._give_up_reason if self.cluster_view.leader.record is None else None
        return self.replica.problem or given_up

    @property
    def problem(self) -> str | None:
        """The first problem of this masterd, its role, its watches or its maintenance; None if there is none."""
        return (
            self.etcd.refusal
            or self.role_problem
            or self.cluster_view.watch_error
            or self.space_keeper.problem
            or self.maintenance.refusal
        )

    @property
    def problem_or_outage(self) -> str | None:
        """`problem`, or else, on a standby, that etcd does not answer; None if there is neither."""
        outage = self.replica.outage if self.leader is None else None
        return self.problem or (f"etcd cannot be read: {outage}" if outage else None)

    def _leadership_check(self) -> Callable[[], Awaitable[None]] | None:
        """The function that confirms this masterd's term through etcd; None while it does not serve as leader."""
        return self.leader.verify_leader if self.leader is not None and self.leader.serving.is_set() else None

    def _request_refresh(self) -> None:
        """Make the candidacy be written soon: a value of it changed."""
        self._refresh_wanted.set()

    def _rank(self) -> int:
        """How many candidates rank before this one, not counting the last leader."""
        last = self.cluster_view.last_leader.record
        return rank_of(self.me.id, last.id if last else None, self.cluster_view.candidates.items)

    async def run(self) -> NoReturn:
        """Be a candidate and alternate between standby and leader, until cancelled.

        Raises NameTaken if another process took this masterd's name, and what etcd refuses before it has accepted the
        candidacy once.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.cluster_view.watch(), name="board")
            tasks.create_task(self.space_keeper.run(), name="space")
            tasks.create_task(self.placement.run(), name="separation")
            while True:
                self._lease = lease = await self._grant()
                try:
                    await self._run_with_lease(lease)
                except LeaseLost as error:
                    log.warning("lease lost (%s): requesting a new one", error)
                finally:
                    await lease.revoke()

    async def _run_with_lease(self, lease: Lease) -> None:
        revision = await self._announce(lease)
        await run_until_first_ends(
            lease=lease.keep_alive(patience_s=_LEASE_PATIENCE_S),
            candidate=self._stay_candidate(lease, revision),
            role=self._alternate_roles(lease),
        )

    async def _alternate_roles(self, lease: Lease) -> NoReturn:
        try:
            while True:
                won = await self.become_standby(lease)
                await self.become_leader(won)
        finally:
            self.warm_start.cancel()
            await self.campaign.wait_closed()
            await self._cancelled_tasks.wait_ended()

    async def become_standby(self, lease: Lease) -> TakeoverWon:
        """Follow the journal and watch the leader, until a term is won."""
        self.leader = None
        if self._stopping:  # a masterd that resigned to stop must not take over again
            await asyncio.Event().wait()
        await self._cancelled_tasks.wait_ended()
        log.info("standby at index %d", self.replica.index)
        following = asyncio.create_task(self._follow_after_delay(), name="follow the journal")
        try:
            return await self.campaign.win(lease.id)
        finally:
            # Once cancelled it applies nothing more; closing its stream may take a while, so it is awaited later.
            self._cancelled_tasks.cancel(following)

    async def _follow_after_delay(self) -> None:
        """Follow the journal. A deposed leader starts later: it is up to date, and its successor's calls go first."""
        if self._has_led:
            await asyncio.sleep(_FOLLOW_DELAY_S)
        self._has_led = False
        await self.replica.follow()

    async def become_leader(self, won: TakeoverWon) -> None:
        """Lead until the term ends. A term that cannot be served is resigned, so that another masterd can try."""
        begun, self._has_led = time.monotonic(), True
        try:
            timeline = self.campaign.timeline
            await self.replica.apply_takeover(won)
            timeline.mark("caught_up", time.monotonic())
            self.leader = Leader(
                self.etcd,
                self.keys,
                master=self.me.id,
                won=won,
                replica=self.replica,
                cluster_view=self.cluster_view,
                application=self.application,
                space_keeper=self.space_keeper,
                timeline=timeline,
                warm_start=self.warm_start,
                settings=self._settings.leader,
                wall_clock=self._wall_clock,
            )
            log.info(
                "leader, term %s, at index %d (%.1f ms after the win)",
                won.fence.term, self.replica.index, (time.monotonic() - begun) * 1e3,
            )  # fmt: skip
            self._give_up_reason = None
            self.campaign.end_attempt()
            self.cluster_view.notify()
            self.placement.notify_leading()
            await self.leader.run()
        except LeadershipLost as error:
            log.warning("deposed: %s", error)
        except TermBroken as error:
            await self._give_up(won, error, begun)
        except OutcomeUnknown as error:
            log.warning("deposed during a commit: %s", error)
        except NodectlError as error:
            await self._give_up(won, error, begun)
        finally:
            self.leader = None
            self.campaign.end_attempt()
            self.cluster_view.notify()

    async def _give_up(self, won: TakeoverWon, error: NodectlError, begun: float) -> None:
        """Resign and back off. The pause grows with each consecutive failure, as each attempt writes a term."""
        self._give_up_reason = f"gave up term {won.fence.term}: {error}"
        log.error("%s", self._give_up_reason)
        self.leader = None  # ends its heartbeats during the pause; requests go to the next leader
        self.campaign.end_attempt()
        self.cluster_view.notify()
        await self._resign(won, f"cannot lead: {error}")
        if isinstance(error, Garbage | TermBroken):
            self.campaign.require_store_check()
        self._give_up_count = 0 if time.monotonic() - begun > _SERVED_TERM_MIN_S else self._give_up_count + 1
        await asyncio.sleep(grown_s(_RETRY_S, _GIVE_UP_BACKOFF_MAX_S, self._give_up_count))

    async def stand_down(self, why: str) -> None:
        """Give up leadership at a stop: hand over to the best standby; else finish pending commands and resign."""
        self._stopping = True
        leader = self.leader
        if leader is None:
            return
        actor = f"{self.me.id}, which was {why}"
        urls = [candidate.urls[0] for candidate in by_rank(self.cluster_view.candidates.items.values())
                if candidate.id != self.me.id and candidate.urls][:_SUCCESSORS_MAX]  # fmt: skip
        try:
            async with asyncio.timeout(_STAND_DOWN_S):
                if self.cluster_view.paused is None and await hand_over_to_any(leader, self.replica.index, urls, actor):
                    log.info("handed over: %s", why)
                    await self._wait_replaced(leader)
                    return
                leader.close_for_handover()
                await leader.wait_drained()
        except LeadershipLost as error:
            log.info("no handover, the term has ended already: %s", error)
            return
        except TimeoutError:
            log.warning("resigning with commands pending: they were not finished within %g s", _STAND_DOWN_S)
        try:
            if await resign(self.etcd, self.keys, leader.fence, why):
                log.info("resigned: %s", why)
        except NodectlError as error:
            log.warning("cannot resign (%s): leadership ends when the lease expires", error)

    async def _wait_replaced(self, leader: Leader) -> None:
        """Wait until the watch shows another leader. Requests that waited in the old term are then forwarded to it
        before the process ends."""
        changed = asyncio.Event()
        stop = self.cluster_view.subscribe(changed.set)
        try:
            while self.leader is leader or 0 < self.cluster_view.leader.revision <= leader.fence.term.revision:
                changed.clear()
                await changed.wait()
        finally:
            stop()

    async def _resign(self, won: TakeoverWon, why: str) -> None:
        try:
            await resign(self.etcd, self.keys, won.fence, why)
        except NodectlError as error:
            log.warning("cannot resign: %s", error)

    # --- candidacy ---

    async def _grant(self) -> Lease:
        """Request a lease until etcd grants one. A full etcd may refuse for hours; this masterd follows the journal
        meanwhile, so that it can answer reads."""
        following: asyncio.Task[None] | None = None
        limited_log = RateLimitedLog(log)
        try:
            while True:
                try:
                    return await Lease.grant(self.etcd, self._settings.lease_ttl_s)
                except NodectlError as error:
                    self._raise_if_fatal(error)
                    limited_log.log(logging.WARNING, f"etcd grants no lease yet: {error}", about=error.code)
                if following is None:
                    following = asyncio.create_task(self.replica.follow(), name="follow the journal without a lease")
                await asyncio.sleep(_RETRY_S)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    def _raise_if_fatal(self, error: NodectlError) -> None:
        """Raise `error` if etcd refuses this masterd at its start, as wrong credentials must be seen at once. Later
        on every error is retried."""
        if not self._was_admitted and not isinstance(error, Unavailable | OutcomeUnknown):
            raise error

    @property
    def _priority(self) -> int:
        """The priority of --priority, or else of the adopted configuration, or else 0."""
        if self.me.priority is not None:
            return self.me.priority
        adopted = self.replica.state.adopted
        ours = adopted.inventory.masters.get(self.me.id) if adopted is not None else None
        return ours.priority if ours is not None else 0

    def _candidate(self) -> Candidate:
        return Candidate(
            id=self.me.id, host=self.me.host, urls=self.me.urls, index=self.replica.index,
            priority=self._priority, nonce=self.me.nonce, version=__version__, pid=os.getpid(),
            beside_etcd_leader=self.placement.hosts_etcd_leader,
        )  # fmt: skip

    async def _announce(self, lease: Lease) -> int:
        """Write candidates/<id> and return its revision.

        Waits while a masterd of another host holds the name. An earlier process of the same host is overwritten.
        """
        key = self.keys.candidate(self.me.id)
        limited_log, log_once = RateLimitedLog(log), RateLimitedLog(log, math.inf)
        while True:
            try:
                current = await self.etcd.get(key)
                holder = decode_or_none(Candidate, current)
                if holder is not None and holder.host != self.me.host:
                    line = f"a masterd named {holder.id} already runs on {holder.host}: waiting until it ends"
                    log_once.log(logging.ERROR, line, about="name taken")
                elif (revision := await self._put(lease, 0 if current is None else current.mod_revision)) is not None:
                    self._was_admitted = True
                    return revision
            except LeaseLost:
                raise
            except NodectlError as error:
                self._raise_if_fatal(error)
                limited_log.log(logging.WARNING, f"cannot write the candidacy yet: {error}", about=error.code)
            if lease.left_s <= 0:
                raise LeaseLost("it expired before the candidacy was written")
            await asyncio.sleep(_RETRY_S)

    async def _put(self, lease: Lease, revision: int) -> int | None:
        """Write the candidacy if its key is still at `revision` (0: absent). Returns the new revision, or None if the
        key was at another one."""
        key, own = self.keys.candidate(self.me.id), self._candidate()
        compare = cmp_mod(key, revision) if revision else cmp_create(key, 0)
        put = op_put(key, own.encode(), lease=lease.id)
        result = await self.etcd.txn([compare], [put], [op_get(key)], repeatable=True)
        if result.succeeded:
            return result.revision
        current = result.range(0).first
        holder = decode_or_none(Candidate, current)
        if current is not None and holder is not None and holder.nonce == self.me.nonce:
            return current.mod_revision
        return None

    async def _stay_candidate(self, lease: Lease, revision: int) -> NoReturn:
        """Keep the candidacy up to date. Raises NameTaken if another process took this masterd's name."""
        stop = self.cluster_view.candidates.subscribe(self._on_candidate_changed)
        try:
            await self._refresh_candidacy(lease, revision)
        finally:
            stop()

    def _on_candidate_changed(self, name: str) -> None:
        """Check the candidacy at once if another process wrote one under this masterd's name."""
        if name == self.me.id and not self._is_ours(self.cluster_view.candidates.items.get(name)):
            self._refresh_wanted.set()

    def _is_ours(self, candidate: Candidate | None) -> bool:
        return candidate is None or candidate.nonce == self.me.nonce

    async def _refresh_candidacy(self, lease: Lease, revision: int) -> NoReturn:
        """Write the candidacy whenever one of its values changed, at most every 2 s unless it is requested."""
        written: Candidate | None = None
        while True:
            await set_within(self._refresh_wanted, _CANDIDATE_EVERY_S)
            self._refresh_wanted.clear()
            new = self._candidate()
            refused = self.etcd.refusal is not None  # then write anyway: success ends the refusal
            if new == written and not refused and self._is_ours(self.cluster_view.candidates.items.get(self.me.id)):
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
            revision, written = new_revision, new

    async def _check_not_replaced(self) -> int:
        """Called when the key is not at the revision that this process wrote. Returns its present revision, 0 if it is
        absent. Raises NameTaken only if the key holds another process's candidacy."""
        # An absent key means that the lease expired in etcd: the next keepalive or put raises LeaseLost.
        key = self.keys.candidate(self.me.id)
        current = await self.etcd.get(key)
        holder = decode_or_none(Candidate, current)
        if holder is not None and holder.nonce != self.me.nonce:
            raise NameTaken(f"another process has taken the name {self.me.id}: this process ends")
        return 0 if current is None else current.mod_revision
