"""The roles of a masterd. `become_leader` and `become_standby` are the only places where a role changes.

       +----------- lease lost, term lost ------------+
       v                                              |
become_standby -- ground to take over, txn won --> become_leader
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
from masterd.upkeep.store_audit import StoreAudit
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
"""A leader that etcd does not answer goes on, as nothing it does lands without etcd; then it says that it does not."""
_GIVE_UP_BACKOFF_MAX_S = 30.0
_SERVED_TERM_MIN_S = 5.0  # a term that held for so long was none that could not be served


@dataclass(frozen=True)
class MasterSettings:
    """What a masterd is told."""

    lease_ttl_s: int = 2
    timing: ElectionTiming = LAN
    find_member: Callable[[], Awaitable[LocalMember]] | None = None
    """Which etcd member is on this PC, if there may be one."""
    leader: LeaderSettings = field(default_factory=LeaderSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    allow_drills: bool = False
    """Whether a request may end or freeze this leader."""


class NameTaken(NodectlError):
    """Another process has taken this masterd's name; this one must end."""

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
        """`maintenance`: a session whose user may do what is root's alone; without it, the same as all else."""
        self.etcd, self.keys, self.me, self.application = etcd, keys, me, application
        self._settings, self._wall_clock = settings, wall_clock
        self.cluster_view = ClusterView(etcd, keys)
        self.replica = Replica(etcd, keys)
        self.timing = settings.timing
        self.campaign = Campaign(etcd, keys, me, self.cluster_view, self.replica, settings.timing)
        self.store_audit = StoreAudit(etcd, keys)
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
        """Whether etcd has ever taken our candidacy: from then on no refusal ends this process."""
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
        """For how long this leader has waited for etcd: what it tells standbys, so that one that can may take over."""
        waits_s = self.leader.stuck_s if self.leader is not None else 0.0
        return max(waits_s, self._lease.overdue_s if self._lease is not None else 0.0)

    @property
    def role_problem(self) -> str | None:
        """What keeps this masterd from following or leading, if anything does."""
        fault = (
            self._give_up_reason if self.cluster_view.leader.record is None else None
        )  # when another leads, it is over
        return self.replica.problem or fault

    @property
    def problem(self) -> str | None:
        """What keeps this masterd from its work, if anything does."""
        return (
            self.etcd.refusal
            or self.role_problem
            or self.cluster_view.watch_error
            or self.space_keeper.problem
            or self.maintenance.refusal
        )

    @property
    def problem_or_outage(self) -> str | None:
        """The same, or, when it can only wait: that it does not hear from etcd."""
        outage = self.replica.outage if self.leader is None else None
        return self.problem or (f"etcd cannot be read: {outage}" if outage else None)

    def _leadership_check(self) -> Callable[[], Awaitable[None]] | None:
        """What confirms that this masterd leads; None while it does not."""
        return self.leader.verify_leader if self.leader is not None and self.leader.serving.is_set() else None

    def _request_refresh(self) -> None:
        """The candidacy has changed."""
        self._refresh_wanted.set()

    def _rank(self) -> int:
        gone = self.cluster_view.last_leader.record.id if self.cluster_view.last_leader.record else None
        return rank_of(self.me.id, gone, self.cluster_view.candidates.items)

    async def run(self) -> NoReturn:
        """Candidate, standby, leader, until cancelled. Usurped when another process took this name."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.cluster_view.watch(), name="board")
            tasks.create_task(self.space_keeper.run(), name="space")
            tasks.create_task(self.placement.run(), name="separation")
            while True:
                self._lease = lease = await self._grant()
                try:
                    await self._run_with_lease(lease)
                except LeaseLost as error:
                    log.warning("lease lost (%s): a new one", error)
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
        """Follow the journal and observe, until a term is won."""
        self.leader = None
        if self._stopping:  # having resigned, it must not be the first to take over again
            await asyncio.Event().wait()
        await self._cancelled_tasks.wait_ended()
        log.info("standby at index %d", self.replica.index)
        following = asyncio.create_task(self._follow_after_delay(), name="follow the journal")
        try:
            return await self.campaign.win(lease.id)
        finally:
            self._cancelled_tasks.cancel(
                following
            )  # it takes nothing more from the journal; its stream may take its time

    async def _follow_after_delay(self) -> None:
        """Whoever has led until now has all there is, and lets its successor go first."""
        if self._has_led:
            await asyncio.sleep(_FOLLOW_DELAY_S)
        self._has_led = False
        await self.replica.follow()

    async def become_leader(self, won: TakeoverWon) -> None:
        """Lead until the term is over. A term that cannot be served is given up, so that another may try."""
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
            log.warning("deposed in the middle of a commit: %s", error)
        except NodectlError as error:
            await self._give_up(won, error, begun)
        finally:
            self.leader = None
            self.campaign.end_attempt()
            self.cluster_view.notify()

    async def _give_up(self, won: TakeoverWon, error: NodectlError, begun: float) -> None:
        """Resign and let others try, the longer the more often this happens in a row: each try writes a term."""
        self._give_up_reason = f"gave up term {won.fence.term}: {error}"
        log.error("%s", self._give_up_reason)
        self.leader = None  # its heartbeats end, and requests go to the next leader, however long this pauses
        self.campaign.end_attempt()
        self.cluster_view.notify()
        await self._resign(won, f"cannot lead: {error}")
        if isinstance(error, Garbage | TermBroken):
            self.campaign.require_store_check()
        self._give_up_count = 0 if time.monotonic() - begun > _SERVED_TERM_MIN_S else self._give_up_count + 1
        await asyncio.sleep(grown_s(_RETRY_S, _GIVE_UP_BACKOFF_MAX_S, self._give_up_count))

    async def stand_down(self, why: str) -> None:
        """At a stop: hand over to the best standby; where there is none, finish what waits and resign."""
        self._stopping = True
        leader = self.leader
        if leader is None:
            return
        asker = f"{self.me.id}, which was {why}"
        urls = [candidate.urls[0] for candidate in by_rank(self.cluster_view.candidates.items.values())
                if candidate.id != self.me.id and candidate.urls][:_SUCCESSORS_MAX]  # fmt: skip
        try:
            async with asyncio.timeout(_STAND_DOWN_S):
                if self.cluster_view.paused is None and await hand_over_to_any(leader, self.replica.index, urls, asker):
                    log.info("handed over: %s", why)
                    await self._wait_replaced(leader)
                    return
                leader.close_for_handover()
                await leader.wait_drained()
        except LeadershipLost as error:
            log.info("nothing to hand over: %s", error)
            return
        except TimeoutError:
            log.warning("resigning with commands still open")
        try:
            if await resign(self.etcd, self.keys, leader.fence, why):
                log.info("resigned: %s", why)
        except NodectlError as error:
            log.warning("could not resign (%s): the lease runs out instead", error)

    async def _wait_replaced(self, leader: Leader) -> None:
        """Until this masterd has seen who leads instead: what waited in that term is then passed on, not cut off."""
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
            log.warning("could not resign: %s", error)

    # --- candidacy ---

    async def _grant(self) -> Lease:
        """A lease. A full etcd gives none, perhaps for hours: the journal is followed meanwhile, for those who read."""
        following: asyncio.Task[None] | None = None
        limited_log = RateLimitedLog(log)
        try:
            while True:
                try:
                    return await Lease.grant(self.etcd, self._settings.lease_ttl_s)
                except NodectlError as error:
                    self._raise_if_fatal(error)
                    limited_log.log(logging.WARNING, f"no lease yet: {error}", about=error.code)
                if following is None:
                    following = asyncio.create_task(self.replica.follow(), name="follow the journal without a lease")
                await asyncio.sleep(_RETRY_S)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    def _raise_if_fatal(self, error: NodectlError) -> None:
        """Raises what etcd refuses at the start, to whoever gave us the credentials; later on all is waited out."""
        if not self._was_admitted and not isinstance(error, Unavailable | OutcomeUnknown):
            raise error

    @property
    def _priority(self) -> int:
        """As this masterd was told, or else as the adopted configuration has it."""
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
        """Put our candidacy. While another PC's masterd has our name, wait; our own earlier process is put over."""
        key = self.keys.candidate(self.me.id)
        limited_log, log_once = RateLimitedLog(log), RateLimitedLog(log, math.inf)
        while True:
            try:
                found = await self.etcd.get(key)
                other = decode_or_none(Candidate, found)
                if other is not None and other.host != self.me.host:
                    line = f"a masterd named {other.id} already runs on {other.host}: waiting for its end"
                    log_once.log(logging.ERROR, line, about="name taken")
                elif (revision := await self._put(lease, 0 if found is None else found.mod_revision)) is not None:
                    self._was_admitted = True
                    return revision
            except LeaseLost:
                raise
            except NodectlError as error:
                self._raise_if_fatal(error)
                limited_log.log(logging.WARNING, f"cannot announce myself yet: {error}", about=error.code)
            if lease.left_s <= 0:
                raise LeaseLost("it ran out while announcing")
            await asyncio.sleep(_RETRY_S)

    async def _put(self, lease: Lease, revision: int) -> int | None:
        """Write our candidacy over `revision`; the new revision, or None when somebody else was there meanwhile."""
        key, mine = self.keys.candidate(self.me.id), self._candidate()
        compare = cmp_mod(key, revision) if revision else cmp_create(key, 0)
        put = op_put(key, mine.encode(), lease=lease.id)
        result = await self.etcd.txn([compare], [put], [op_get(key)], repeatable=True)
        if result.succeeded:
            return result.revision
        now = result.range(0).first
        other = decode_or_none(Candidate, now)
        if now is not None and other is not None and other.nonce == self.me.nonce:
            return now.mod_revision
        return None

    async def _stay_candidate(self, lease: Lease, revision: int) -> NoReturn:
        """Say now and then how far the replica is; end this process when another has taken our name."""
        stop = self.cluster_view.candidates.subscribe(self._on_candidate_changed)
        try:
            await self._refresh_candidacy(lease, revision)
        finally:
            stop()

    def _on_candidate_changed(self, name: str) -> None:
        """A candidacy has changed; another process's under our name is looked at now."""
        if name == self.me.id and not self._is_ours(self.cluster_view.candidates.items.get(name)):
            self._refresh_wanted.set()

    def _is_ours(self, candidate: Candidate | None) -> bool:
        return candidate is None or candidate.nonce == self.me.nonce

    async def _refresh_candidacy(self, lease: Lease, revision: int) -> NoReturn:
        said: Candidate | None = None
        while True:
            await set_within(self._refresh_wanted, _CANDIDATE_EVERY_S)
            self._refresh_wanted.clear()
            new = self._candidate()
            refused = self.etcd.refusal is not None  # so that it shows when it is not any more
            if new == said and not refused and self._is_ours(self.cluster_view.candidates.items.get(self.me.id)):
                continue
            try:
                written = await self._put(lease, revision)
                if written is None:
                    revision = await self._check_not_replaced()
                    continue
            except (LeaseLost, NameTaken):
                raise
            except NodectlError as error:
                log.debug("candidacy not refreshed: %s", error)
                continue
            revision, said = written, new

    async def _check_not_replaced(self) -> int:
        """Our candidacy is not as we wrote it. Absent, its lease has run out in etcd, which `keep` will find, or the
        next put; only another process's own words mean that it has our name. The revision to put over next."""
        key = self.keys.candidate(self.me.id)
        found = await self.etcd.get(key)
        other = decode_or_none(Candidate, found)
        if other is not None and other.nonce != self.me.nonce:
            raise NameTaken(f"another process has taken the name {self.me.id}: this one ends")
        return 0 if found is None else found.mod_revision
