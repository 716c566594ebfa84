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
import ssl
import time
from typing import NoReturn, Protocol

from masterd.election.campaign import Campaign, MasterIdentity, by_rank
from masterd.election.fitness import Fitness
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.roles.candidacy import Candidacy
from masterd.roles.handover import hand_over_to_any
from masterd.roles.leadership import Leadership
from masterd.roles.rehearsal import Rehearsal
from masterd.term.derivation.warm_start import WarmStart
from masterd.term.journal import TermBroken
from masterd.term.leader import Leader
from masterd.upkeep.etcd_leader_placement import EtcdLeaderPlacement
from masterd.upkeep.space_keeper import SpaceKeeper
from nodestore.cluster.election import TakeoverWon, resign
from nodestore.cluster.store_identity import StoreIdentity
from nodestore.errors import Garbage, LeadershipLost, LeaseLost, NodectlError, OutcomeUnknown
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, Head, decode_or_none
from nodestore.support.backoff import grown_s
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import CancelledTasks, background_task, run_until_first_ends

log = logging.getLogger(__name__)

_RETRY_S = 0.2
STAND_DOWN_S = 4.0
"""Time limit of a handover, or of finishing the pending commands, when this masterd stops."""
_FOLLOW_DELAY_S = 0.1
_SUCCESSORS_MAX = 2
_LEASE_PATIENCE_S = 30.0
"""How long a leader keeps its role after its lease may have expired, while etcd does not answer. This is safe: without
etcd none of its writes takes effect."""
_GIVE_UP_BACKOFF_MAX_S = 30.0
_SERVED_TERM_MIN_S = 5.0  # a term that lasted this long counts as served: the back-off starts from the beginning


class LeaderFactory(Protocol):
    """Creates the leader role for a term that was won."""

    def __call__(self, won: TakeoverWon, timeline: Timeline) -> Leader: ...


class Master:
    """Runs one masterd: holds its lease and candidacy, and alternates between the roles."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        me: MasterIdentity,
        *,
        leadership: Leadership,
        cluster_view: ClusterView,
        replica: Replica,
        candidacy: Candidacy,
        campaign: Campaign,
        fitness: Fitness,
        rehearsal: Rehearsal,
        warm_start: WarmStart,
        new_leader: LeaderFactory,
        space_keeper: SpaceKeeper,
        placement: EtcdLeaderPlacement,
        store: StoreIdentity,
        lease_ttl_s: int,
        give_up_retry_s: float,
        peers_tls: ssl.SSLContext | None = None,
    ) -> None:
        """`give_up_retry_s`: the first pause after a term that could not be served; it doubles with each failure.
        `peers_tls`: see `PeerClient`."""
        self._etcd, self._keys, self._me = etcd, keys, me
        self._leadership, self._cluster_view, self._replica = leadership, cluster_view, replica
        self._candidacy, self._campaign, self._warm_start = candidacy, campaign, warm_start
        self._fitness, self._rehearsal = fitness, rehearsal
        self._new_leader, self._space_keeper, self._placement = new_leader, space_keeper, placement
        self._store = store
        self._lease_ttl_s, self._give_up_retry_s = lease_ttl_s, give_up_retry_s
        self._peers_tls = peers_tls
        self._cancelled_tasks = CancelledTasks()
        self._give_up_count = 0
        self._has_led = False
        self._stopping = False

    async def run(self) -> NoReturn:
        """Be a candidate and alternate between standby and leader, until cancelled.

        Raises NameTaken if another process took this masterd's name. Raises etcd's refusal if etcd has never accepted
        the candidacy of this process.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store.run(), name="check which store this is")
            tasks.create_task(self._cluster_view.watch(), name="watch the cluster")
            tasks.create_task(self._space_keeper.run(), name="keep space")
            tasks.create_task(self._placement.run(), name="place etcd's leader")
            tasks.create_task(self._rehearsal.run(), name="rehearse a takeover")
            while True:
                self._leadership.lease = lease = await self._grant()
                try:
                    await self._run_with_lease(lease)
                except LeaseLost as error:
                    log.warning("lease lost (%s): requesting a new one", error)
                finally:
                    await lease.revoke()

    async def _run_with_lease(self, lease: Lease) -> None:
        revision = await self._candidacy.announce(lease)
        await run_until_first_ends(
            lease=lease.keep_alive(patience_s=_LEASE_PATIENCE_S),
            candidate=self._candidacy.keep_fresh(lease, revision),
            role=self._alternate_roles(lease),
        )

    async def _alternate_roles(self, lease: Lease) -> NoReturn:
        try:
            while True:
                won = await self.become_standby(lease)
                await self.become_leader(won)
        finally:
            self._warm_start.cancel()
            await self._campaign.wait_closed()
            await self._cancelled_tasks.wait_ended()

    async def become_standby(self, lease: Lease) -> TakeoverWon:
        """Follow the journal and watch the leader, until a term is won."""
        self._leadership.leader = None
        if self._stopping:  # a masterd that resigned to stop must not take over again
            await asyncio.Event().wait()
        await self._cancelled_tasks.wait_ended()
        log.info("standby at index %d", self._replica.index)
        following = background_task(self._follow_after_delay(), name="follow the journal", eternal=True)
        try:
            return await self._campaign.win(lease.id)
        finally:
            # A cancelled task applies no further entry. It is awaited later, because closing its stream may take long.
            self._cancelled_tasks.cancel(following)

    async def _follow_after_delay(self) -> None:
        """Follow the journal. A deposed leader waits 0.1 s first: its state is up to date, and its calls to etcd would
        delay those of its successor."""
        if self._has_led:
            await asyncio.sleep(_FOLLOW_DELAY_S)
        self._has_led = False
        await self._replica.follow()

    async def become_leader(self, won: TakeoverWon) -> None:
        """Lead until the term ends. If the term cannot be served, resign it, so that another masterd can take over."""
        begun, self._has_led = time.monotonic(), True
        try:
            timeline = self._campaign.timeline
            await self._replica.apply_takeover(won)
            self._check_memory(won)
            if (barred := self._fitness.barred) is not None:  # the recorded application is known for certain only now
                raise NodectlError(barred)
            timeline.mark("caught_up", time.monotonic())
            self._leadership.leader = leader = self._new_leader(won, timeline)
            log.info(
                "leader, term %s, at index %d (%.1f ms after the win)",
                won.fence.term, self._replica.index, (time.monotonic() - begun) * 1e3,
            )  # fmt: skip
            self._leadership.give_up_reason = None
            self._campaign.end_attempt()
            self._cluster_view.notify()
            self._placement.notify_leading()
            await run_until_first_ends(lead=leader.run(), store=self._store.wait_other())
        except LeadershipLost as error:
            log.warning("deposed: %s", error)
        except TermBroken as error:
            await self._give_up(won, error, begun)
        except OutcomeUnknown as error:
            log.warning("deposed during a commit: %s", error)
        except NodectlError as error:
            await self._give_up(won, error, begun)
        finally:
            self._leadership.leader = None
            self._campaign.end_attempt()
            self._cluster_view.notify()

    def _check_memory(self, won: TakeoverWon) -> None:
        """Raise Garbage if `head` was deleted or garbled and another masterd's state is beyond this one.

        Then `head` does not show what was committed, and the journal may have been deleted too.
        """
        if won.head is not None and decode_or_none(Head, won.head) is not None:
            return
        others = [item for name, item in self._cluster_view.candidates.items.items() if name != self._me.id]
        ahead = [item for item in others if item.index > self._replica.index and self._shares_store(item)]
        if ahead:
            raise Garbage(
                f"{self._keys.head} is missing or unreadable, and {ahead[0].id} holds index {ahead[0].index}, this "
                f"masterd only {self._replica.index}: {ahead[0].id} must lead"
            )

    def _shares_store(self, other: Candidate) -> bool:
        mark = self._store.mark
        return other.store is None or mark is None or mark.is_same_store(other.store)

    async def _give_up(self, won: TakeoverWon, error: NodectlError, begun: float) -> None:
        """Resign and back off. The pause grows with each consecutive failure, because each takeover writes a record of
        its term into etcd."""
        self._leadership.give_up_reason = f"gave up term {won.fence.term}: {error}"
        self._leadership.given_up_at, self._leadership.given_up_term = time.monotonic(), won.fence.term
        log.error("%s", self._leadership.give_up_reason)
        self._leadership.leader = None  # before the pause: heartbeats end, and requests are forwarded to a new leader
        self._campaign.end_attempt()
        self._cluster_view.notify()
        await self._resign(won, f"cannot lead: {error}")
        if isinstance(error, Garbage | TermBroken):
            self._campaign.require_store_check()
        self._give_up_count = 0 if time.monotonic() - begun > _SERVED_TERM_MIN_S else self._give_up_count + 1
        await asyncio.sleep(grown_s(self._give_up_retry_s, _GIVE_UP_BACKOFF_MAX_S, self._give_up_count))

    async def stand_down(self, why: str) -> None:
        """Give up leadership when this masterd stops: hand over to the best standby that can take over. If none can,
        finish the pending commands and resign."""
        self._stopping = True
        leader = self._leadership.leader
        if leader is None:
            return
        actor = f"{self._me.id} (stopping)"
        try:
            async with asyncio.timeout(STAND_DOWN_S):
                urls = self._successor_urls()
                if await hand_over_to_any(leader, self._replica.index, urls, actor, self._peers_tls):
                    log.info("handed over: %s", why)
                    await self._wait_replaced(leader)
                    return
                leader.close_for_handover()
                await leader.wait_drained()
        except LeadershipLost as error:
            log.info("no handover, the term has ended already: %s", error)
            return
        except TimeoutError:
            log.warning("resigning with commands pending: they were not finished within %g s", STAND_DOWN_S)
        try:
            if await resign(self._etcd, self._keys, leader.fence, why):
                log.info("resigned: %s", why)
        except NodectlError as error:
            log.warning("cannot resign (%s): leadership ends when the lease expires", error)

    def _successor_urls(self) -> list[str]:
        """URLs of the best fit standbys, in order of rank; none while takeovers are paused."""
        if self._cluster_view.paused is not None:
            return []
        candidates = by_rank(self._cluster_view.candidates.items.values())
        fit = [other for other in candidates if other.id != self._me.id and other.urls and other.unfit is None]
        return [other.urls[0] for other in fit][:_SUCCESSORS_MAX]

    async def _wait_replaced(self, leader: Leader) -> None:
        """Wait until the watch shows another leader. So requests that waited in the old term can be forwarded to the
        new leader before this process ends."""
        changed = asyncio.Event()
        view, own_revision = self._cluster_view, leader.fence.term.revision
        unsubscribe = view.subscribe_but_nodes(changed.set)
        try:
            while self._leadership.leader is leader or 0 < view.leader.revision <= own_revision:
                changed.clear()
                await changed.wait()
        finally:
            unsubscribe()

    async def _resign(self, won: TakeoverWon, why: str) -> None:
        try:
            await resign(self._etcd, self._keys, won.fence, why)
        except NodectlError as error:
            log.warning("cannot resign: %s", error)

    async def _grant(self) -> Lease:
        """Request a lease until etcd grants one. A full etcd may refuse for hours; this masterd follows the journal
        meanwhile, so that it can answer reads."""
        following: asyncio.Task[None] | None = None
        limited_log = RateLimitedLog(log)
        try:
            while True:
                try:
                    return await Lease.grant(self._etcd, self._lease_ttl_s)
                except NodectlError as error:
                    self._candidacy.raise_if_refused(error)
                    limited_log.log(logging.WARNING, f"etcd grants no lease yet: {error}", about=error.code)
                if following is None:
                    following = background_task(
                        self._replica.follow(), name="follow the journal without a lease", eternal=True
                    )
                await asyncio.sleep(_RETRY_S)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
