"""Decides when a standby attempts a takeover, lets standbys of better rank go first, and sends the takeover.

An attempt is safe at any time, because the takeover transaction compares the observed `leader`. So the rules here serve
two other aims: a quick takeover if one is needed, and few needless attempts.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from masterd.election.fitness import UNFIT_WAIT_S, Fitness, FixedFitness, has_fitter
from masterd.election.heartbeat_listener import SessionFactory, open_session
from masterd.election.leader_watch import LeaderWatch, TakeoverReason
from masterd.election.suspicion import ElectionTiming, streak_after
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from nodestore.cluster.election import (
    EpochSeen,
    LeaderSeen,
    TakeoverLost,
    TakeoverWon,
    confirm_takeover,
    ensure_epoch,
    new_leader_record,
    resign,
    resignation_reason,
    takeover,
)
from nodestore.cluster.store_identity import OtherStore, StoreIdentity
from nodestore.errors import Conflict, Garbage, LeaseLost, NodectlError, NoSpaceUnknown, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, cmp_mod, op_delete
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Candidate, Status, StoreMark, decode_or_none
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import CancelledTasks, background_task
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_ATTEMPT_S = 1.0
_STANDBY_WAIT_S = 0.5
"""How long a switchover order waits for a masterd that is just becoming a standby."""
_WARM_START_DELAY_S = 0.001  # the takeover request is sent first
_CHECK_EVERY_S = 1.0
_BACK_OFF_S = 0.1
_ATTEMPTS_KEPT = 64
_CAUGHT_UP_COMMANDS = 20_000  # a replica applies this many in well under a second


@dataclass(frozen=True, slots=True)
class MasterIdentity:
    """Identity of this masterd process: name, host, URLs, priority, and a nonce of the process."""

    id: str
    host: str
    urls: tuple[str, ...]
    priority: int | None
    """None: the priority in the configuration applies."""
    nonce: str


@dataclass(slots=True)
class SwitchoverOrder:
    """A switchover order: the leader of the term `revision` asks this standby to take over."""

    revision: int
    actor: str
    done: asyncio.Future[TakeoverWon]

    def resolve(self, won: TakeoverWon) -> None:
        """Report success, if the caller still waits."""
        if not self.done.done():
            self.done.set_result(won)

    def fail(self, error: NodectlError) -> None:
        """Report the failure, if the caller still waits."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()


def takeover_reason(
    seen: LeaderSeen,
    before: LeaderSeen,
    me: MasterIdentity,
    watched: TakeoverReason | None,
    own_candidacy: Candidate | None,
) -> TakeoverReason | None:
    """Return why the observed `leader` should be replaced; None if it should not.

    before: the last readable `leader`. watched: the reason found by the watch over the leader, if any. own_candidacy:
    the candidacy stored under our name. If a later process has the same name, it has overwritten ours.
    """
    name = before.record.id if before.record else ""
    if seen.garbage is not None:
        return TakeoverReason("unreadable", f"the leader key is unreadable: {seen.garbage}")
    if seen.record is None:
        if not name:
            return TakeoverReason("first", "the cluster had no leader")
        return TakeoverReason("expired", f"the lease of {name} expired")
    if seen.lease == 0:
        return TakeoverReason("unreadable", f"the leader key of {seen.record.id} is attached to no lease")
    if watched is not None:
        return watched
    newest = own_candidacy is not None and own_candidacy.nonce == me.nonce
    if seen.record.id == me.id and seen.record.host == me.host and newest:
        return TakeoverReason("restarted", f"the leader was an earlier process of {me.id}")
    return None


def by_rank(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sort candidates by rank: fit and caught up first, then not on the PC of etcd's leader, priority, name.

    Candidates publish their index every two seconds, so a candidate that is less than _CAUGHT_UP_COMMANDS behind the
    best one counts as caught up. Every winner reads the journal up to `head` anyway.
    """
    ranked = list(candidates)
    best = max((candidate.index for candidate in ranked), default=0)

    def rank(candidate: Candidate) -> tuple[bool, bool, bool, int, str]:
        behind = candidate.index < best - _CAUGHT_UP_COMMANDS
        return candidate.unfit is not None, behind, candidate.beside_etcd_leader, -candidate.priority, candidate.id

    return sorted(ranked, key=rank)


def rank_of(own_id: str, excluded_id: str | None, candidates: Mapping[str, Candidate]) -> int:
    """Return how many candidates go before `own_id`. excluded_id: the leader that is replaced; it does not count."""
    ranked = by_rank(candidate for candidate in candidates.values() if candidate.id != excluded_id)
    names = [candidate.id for candidate in ranked]
    return names.index(own_id) if own_id in names else len(names)


def reported_marks(
    candidates: Mapping[str, Candidate | None], statuses: Mapping[str, Status | None], own_id: str
) -> dict[str, StoreMark]:
    """The stores that the other daemons report, by a description of the daemon. None: an unreadable key."""
    others = {f"master {name}": item.store for name, item in candidates.items() if item and name != own_id}
    nodes = {f"node {name}": item.store for name, item in statuses.items() if item}
    return {name: mark for name, mark in {**others, **nodes}.items() if mark is not None}


def differing_report(mark: StoreMark | None, reports: Mapping[str, StoreMark]) -> str | None:
    """The first daemon that reports another store than `mark`; None if there is none.

    Reports of lower epochs do not count: they are older than the last `nodectl recover`, such as those of dead nodes.
    """
    for name, other in reports.items():
        if mark is None or other.epoch > mark.epoch:
            return name
        same_epoch = other.epoch == mark.epoch
        if same_epoch and (other.cluster_id != mark.cluster_id or other.revision > mark.revision):
            return name
    return None


class Campaign:
    """Runs the campaigns of one masterd, one at a time. A campaign ends when it has won a term, or is cancelled."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        me: MasterIdentity,
        cluster_view: ClusterView,
        replica: Replica,
        timing: ElectionTiming,
        fitness: Fitness = FixedFitness(),
        open_session: SessionFactory = open_session,
        store: StoreIdentity | None = None,
    ) -> None:
        """store: by default, only what this process has seen of the store counts."""
        self._store = store or StoreIdentity(etcd, keys)
        self._etcd, self._keys, self._me, self._fitness = etcd, keys, me, fitness
        self._open_session = open_session
        self._cluster_view, self._replica, self._timing = cluster_view, replica, timing
        self._attempts: deque[str] = deque(maxlen=_ATTEMPTS_KEPT)
        """Nonces of our recent takeovers. If `leader` holds one, its takeover landed, even if the reply was lost."""
        self._wake = asyncio.Event()
        self._order: SwitchoverOrder | None = None
        self._undecided: tuple[str, SwitchoverOrder] | None = None
        """An executed order whose takeover got no reply, with the nonce of that takeover."""
        self._campaigning = asyncio.Event()
        self._watch: LeaderWatch | None = None
        self.timeline = Timeline()
        """Timeline of the most recent takeover attempt."""
        self._epoch_seen: EpochSeen | None = None
        self._needs_store_check = False
        self._ignored_pause_revision = 0
        """mod_revision of an unreadable key `paused`, which does not stop a takeover; 0 if there is none."""
        self._limited_log = RateLimitedLog(log, math.inf, repeats=logging.DEBUG)
        """An obstacle to a takeover may last for days: each is logged once."""
        self._lost = ""
        """Why the most recent takeover attempt was lost."""
        self.is_taking_over = False
        """Whether a takeover is in flight, or was won and its term has not begun yet."""
        self.on_takeover_sent: Callable[[], None] = lambda: None
        """Called while a takeover is in flight, to prepare for its success."""
        self._cancelled_tasks = CancelledTasks()

    def require_store_check(self) -> None:
        """Make the next attempt check the journal and `head` first.

        Call this after a term was given up, possibly because no masterd can lead with the data in the store.
        Without the check, two masterds would then take over from one another for ever, and write a term each time.
        """
        self._needs_store_check = True

    async def win(self, lease: int) -> TakeoverWon:
        """Wait until there is a reason to take over, and take over; return the term won. Retries during outages.

        Raises LeaseLost if etcd reports that the lease does not exist any more.
        """
        await self._cancelled_tasks.wait_ended()
        self.end_attempt()
        unsubscribe = self._cluster_view.subscribe_but_nodes(self._wake.set)
        reading_epoch = background_task(self._read_epoch_ahead(), name="read the epoch")
        watching = background_task(
            self._watch_leaders(lease), name="watch the leaders", eternal=True, on_end=self._wake.set
        )
        self._campaigning.set()
        try:
            while True:
                self._wake.clear()  # before the step: a change during the step causes another one
                if watching.done():  # without the watch, no dead leader would ever be noticed: end this process
                    watching.result()
                won = await self._step(lease)
                if won is not None:
                    # A term is claimed at most once. If we give it up later and cannot resign, `leader` still carries
                    # our nonce. This term is then taken over like that of any other leader.
                    with suppress(ValueError):
                        self._attempts.remove(won.fence.nonce)
                    return won
                await set_within(self._wake, _CHECK_EVERY_S)
        finally:
            unsubscribe()
            self._campaigning.clear()
            self._cancelled_tasks.cancel(reading_epoch, watching)
            if self._order is not None:
                self._order.fail(Unavailable("this standby stopped campaigning"))
            if self._undecided is not None:
                self._undecided[1].fail(OutcomeUnknown("this standby stopped campaigning; its takeover may still land"))
            self._order = self._undecided = None

    async def wait_closed(self) -> None:
        """Wait until all tasks of past campaigns have ended."""
        await self._cancelled_tasks.wait_ended()

    async def take_over_from(self, revision: int, actor: str, timeout_s: float) -> TakeoverWon:
        """Take over the term `revision`, which its leader hands over at the request of `actor`.

        Unavailable: the takeover did not begin within `timeout_s` seconds, or was lost. OutcomeUnknown: it began, and
        its outcome is not known yet.
        """
        order = SwitchoverOrder(revision, actor, asyncio.get_running_loop().create_future())
        if not await set_within(self._campaigning, _STANDBY_WAIT_S):
            raise Unavailable(f"{self._me.id} is not a standby at the moment")
        if self._order is not None:
            self._order.fail(Unavailable("a later switchover order replaced this one"))
        self._order = order
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(order.done)
        except TimeoutError:
            why = f"{self._me.id} could not take over within {timeout_s:g} s"
            if self._order is order:
                raise Unavailable(why) from None
            raise OutcomeUnknown(f"{why}, and may still do so") from None
        finally:
            if self._order is order:  # not begun: the leader goes on, and must not be deposed later
                self._order = None

    async def _step(self, lease: int) -> TakeoverWon | None:
        await self._cluster_view.leader_known.wait()
        seen = self._cluster_view.leader
        try:
            if seen.record is not None and seen.record.nonce in self._attempts:
                return await self._claim_landed_takeover(seen, lease)
            order, self._order = self._order, None
            if order is not None:
                return await self._execute_order(order, lease)
            if self._cluster_view.paused is not None:
                return None
            reason = self._takeover_reason()
            if reason is not None and (barred := self._fitness.barred) is not None:
                self._limited_log.log(logging.ERROR, f"does not take over: {barred}")
                return None
            if reason is None or not await self._wait_for_rank(seen):
                return None
            await self._check_identity()
            if self._needs_store_check or self._replica.stuck is not None:
                await self._replica.check_store()
                self._needs_store_check = False
            if reason.cause == "expired" and self._cluster_view.last_leader.record is not None:
                last = self._cluster_view.last_leader.record
                resigned_why = await resignation_reason(self._etcd, self._keys, last.nonce)
                if resigned_why is not None:
                    reason = TakeoverReason("resigned", f"{last.id} resigned: {resigned_why}")
            return await self._attempt_takeover(reason, seen, lease)
        except LeaseLost:  # a request that uses the lease was refused, possibly before a keepalive notices the loss
            raise
        except NoSpaceUnknown as error:  # if it has landed after all, our nonce in `leader` shows it
            self._limited_log.log(logging.WARNING, f"takeover not possible now, retrying: {error}")
            await asyncio.sleep(_CHECK_EVERY_S)
        except (Unavailable, OutcomeUnknown) as error:
            self._limited_log.log(logging.WARNING, f"takeover not possible now, retrying: {error}")
        except (Garbage, OtherStore) as error:
            self._limited_log.log(logging.ERROR, f"no masterd can lead: {error}")
            await asyncio.sleep(_CHECK_EVERY_S)
        except NodectlError as error:
            self._limited_log.log(logging.ERROR, f"takeover refused: {error}")
            await asyncio.sleep(_CHECK_EVERY_S)
        await asyncio.sleep(_BACK_OFF_S)
        self._wake.set()
        return None

    def _takeover_reason(self) -> TakeoverReason | None:
        seen, me = self._cluster_view.leader, self._me
        watch = self._watch_of_term(seen)
        own_candidacy = self._cluster_view.candidates.items.get(me.id)
        return takeover_reason(
            seen, self._cluster_view.last_leader, me, watch.takeover_reason if watch else None, own_candidacy
        )

    def _watch_of_term(self, seen: LeaderSeen) -> LeaderWatch | None:
        """Return the watch if it belongs to the term of `seen`, otherwise None."""
        return self._watch if self._watch is not None and self._watch.revision == seen.revision else None

    async def _wait_for_rank(self, seen: LeaderSeen) -> bool:
        """Wait for our turn; return False if `leader` changed meanwhile or the reason no longer holds.

        If this masterd is unfit, it also waits for the fitter candidates, and takes over if none of them has led then.
        """
        replaced_id = self._cluster_view.last_leader.record.id if self._cluster_view.last_leader.record else None
        candidates = self._cluster_view.candidates.items
        wait_s = rank_of(self._me.id, replaced_id, candidates) * self._timing.stagger_s
        if self._fitness.unfit is not None and has_fitter(self._me.id, replaced_id, candidates.values()):
            wait_s += UNFIT_WAIT_S
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._cluster_view.leader != seen:
                return False
            await asyncio.sleep(min(left_s, 0.01))
        return self._cluster_view.leader == seen and self._takeover_reason() is not None

    async def _execute_order(self, order: SwitchoverOrder, lease: int) -> TakeoverWon | None:
        seen = self._cluster_view.leader
        if (unfit := self._fitness.unfit) is not None:
            order.fail(Conflict(f"{self._me.id} is not fit to lead: {unfit}"))
            return None
        if seen.revision != order.revision:
            # Our watch lags. The takeover compares the order's revision, so it succeeds only if that term still lasts.
            seen = LeaderSeen(order.revision, seen.record, seen.lease)
        try:
            won = await self._attempt_takeover(
                TakeoverReason("switchover", f"switchover asked for by {order.actor}"), seen, lease
            )
        except OutcomeUnknown:
            self._undecided = self._attempts[-1], order  # it may still land, so the caller goes on waiting
            raise
        except NodectlError as error:
            order.fail(error)
            raise
        if won is None:
            order.fail(Unavailable(f"{self._me.id} did not take over: {self._lost}"))
        else:
            order.resolve(won)
        return won

    async def _attempt_takeover(self, reason: TakeoverReason, seen: LeaderSeen, lease: int) -> TakeoverWon | None:
        epoch = await self._epoch()
        nonce, known = secrets.token_hex(8), self._store.mark
        self._attempts.append(nonce)
        me = self._me
        record = new_leader_record(
            master=me.id, host=me.host, urls=me.urls, nonce=nonce, cause=reason.cause, why=reason.why,
            streak=streak_after(reason.cause, seen.record.streak if seen.record else 0, self._observed_for_s(seen)),
        )  # fmt: skip
        watch = self._watch_of_term(seen)
        # If `leader` was deleted, the current watch is used, whatever its term is: either it still watches the former
        # leader, or it was created after the deletion and got the former leader's `heard_at`.
        timed_watch = self._watch if seen.record is None else watch
        self.timeline = timed_watch.timeline() if timed_watch is not None else Timeline()
        self.timeline.mark("sent", time.monotonic())
        self.is_taking_over, won = True, False
        warm_start = asyncio.get_running_loop().call_later(_WARM_START_DELAY_S, self.on_takeover_sent)
        try:
            outcome = await takeover(
                self._etcd,
                self._keys,
                me=record,
                lease=lease,
                seen=seen,
                epoch=epoch,
                next_index=self._replica.index + 1,
                timeout_s=_ATTEMPT_S,
                compares=reason.compares,
                paused=self._ignored_pause_revision,
            )
            if isinstance(outcome, TakeoverWon):
                await self._check_won(outcome, known)
                won = True
        finally:
            warm_start.cancel()
            if not won:
                self.end_attempt()
        if isinstance(outcome, TakeoverLost):
            self._ignored_pause_revision = outcome.garbage_revision
            if outcome.is_other_epoch:
                self._epoch_seen = None
            self._cluster_view.observe_leader(outcome.leader)
            if outcome.challenge_answered and watch is not None:
                watch.on_answer_found()
            self._lost = outcome.reason
            self._limited_log.log(logging.INFO, f"did not take over: {outcome.reason}")
            if not outcome.garbage_revision:
                await asyncio.sleep(_BACK_OFF_S)  # our watch may not show the new leader yet
            self._wake.set()
            return None
        self._limited_log.reset()
        self.timeline.mark("won", time.monotonic())
        log.info("took over, term %s: %s", outcome.fence.term, reason.why)
        return outcome

    def end_attempt(self) -> None:
        """Reset `is_taking_over`: the last takeover was lost, or its term has begun or cannot begin any more."""
        if self.is_taking_over:
            self.is_taking_over = False
            self._cluster_view.notify()

    async def _claim_landed_takeover(self, seen: LeaderSeen, lease: int) -> TakeoverWon | None:
        """Claim the term of our takeover that landed although its reply was lost; None if that is not possible.

        If `leader` is attached to an earlier lease of ours, it would soon expire. Then delete it, so that a new
        takeover follows.
        """
        if seen.lease != lease:
            await self._etcd.txn([cmp_mod(self._keys.leader, seen.revision)], [op_delete(self._keys.leader)])
            return None
        outcome = await confirm_takeover(
            self._etcd, self._keys, seen=seen, epoch=await self._epoch(), next_index=self._replica.index + 1
        )
        if isinstance(outcome, TakeoverLost):  # possibly because the epoch has changed
            self._epoch_seen = None
            self._cluster_view.observe_leader(outcome.leader)
            await asyncio.sleep(_BACK_OFF_S)
            self._wake.set()
            return None
        log.info("leading, term %s: an earlier takeover landed although its reply was lost", outcome.fence.term)
        if self._undecided is not None and self._undecided[0] == outcome.fence.nonce:
            self._undecided[1].resolve(outcome)
        return outcome

    def _observed_for_s(self, seen: LeaderSeen) -> float:
        """Return for how many seconds this process has watched the term of `seen`."""
        watch = self._watch_of_term(seen)
        return time.monotonic() - watch.begun_at if watch is not None else 0.0

    async def _read_epoch_ahead(self) -> None:
        """Read the epoch before a takeover needs it, because a read may take long then."""
        with suppress(NodectlError):
            await self._epoch()

    async def _epoch(self) -> EpochSeen:
        """Return the epoch, read once. The takeover compares it; a mismatch makes the next call read it again.

        Begins epoch 1 in a new store, unless this masterd or another daemon remembers a store: then keys were deleted,
        or etcd was replaced.
        """
        if self._epoch_seen is None:
            await self._store.check()
            self._store.raise_if_other()
            # Read directly: the first attempt may come before the view has listed all keys.
            reports = {} if self._store.remembered_at_start else await self._read_reports()
            self._raise_if_reported(reports)
            is_new = self._store.mark is None and not reports
            self._epoch_seen = await ensure_epoch(self._etcd, self._keys, may_begin=is_new)
            await self._store.check()
        return self._epoch_seen

    async def _read_reports(self) -> dict[str, StoreMark]:
        """The stores that the other daemons report, from etcd."""
        candidates, statuses = [
            (await list_at(self._etcd, prefix, end=prefix_end(prefix))).kvs
            for prefix in (self._keys.candidates, self._keys.status)
        ]
        return reported_marks(
            {kv.key.removeprefix(self._keys.candidates): decode_or_none(Candidate, kv) for kv in candidates},
            {kv.key.removeprefix(self._keys.status): decode_or_none(Status, kv) for kv in statuses},
            self._me.id,
        )

    async def _check_identity(self) -> None:
        """Raise OtherStore if etcd is not the store that this masterd remembers.

        A masterd that remembered nothing at its start believes the other daemons: if one of them reports another store,
        it does not lead.
        """
        self._store.raise_if_other()
        view = self._cluster_view
        reports = reported_marks(view.candidates.items, view.status.items, self._me.id)
        if self._store.remembered_at_start or not differing_report(self._store.mark, reports):
            return
        await self._store.check()  # the report may be newer than the revision that this masterd has seen
        self._raise_if_reported(reports)

    def _raise_if_reported(self, reports: Mapping[str, StoreMark]) -> None:
        """Raise OtherStore if one of these daemons remembers another store than this masterd sees."""
        if (reporter := differing_report(self._store.mark, reports)) is not None:
            raise OtherStore(
                f"{reporter} remembers another store than this etcd (epoch or cluster id differ, or the revision went "
                "back), and this masterd remembers none: it does not lead before `nodectl recover` (docs/lost-keys.md)"
            )

    async def _check_won(self, won: TakeoverWon, known: StoreMark | None) -> None:
        """Resign and raise OtherStore if the takeover landed in another store: etcd was replaced since the last check.

        known: the remembered store when the takeover was sent.
        """
        try:
            self._store.check_answer(won.cluster_id, won.fence.term.revision, known)
        except OtherStore as error:
            await resign(self._etcd, self._keys, won.fence, str(error))
            raise

    async def _watch_leaders(self, lease: int) -> None:
        """Watch over the present leader; at each change of `leader`, start a new watch."""
        last_heartbeat_at: float | None = None
        while True:
            seen = self._cluster_view.leader
            streak = seen.record.streak if seen.record else 0
            self._watch = watch = LeaderWatch(
                self._etcd, self._keys, own_id=self._me.id, lease=lease, seen=seen, cluster_view=self._cluster_view,
                replica=self._replica, timing=self._timing, streak=streak, wake=self._wake.set,
                heard_at=last_heartbeat_at, open_session=self._open_session,
            )  # fmt: skip
            changed = asyncio.Event()
            running = background_task(
                watch.run(), name=f"watch over the leader of term {seen.revision}", on_end=changed.set
            )
            unsubscribe = self._cluster_view.subscribe_but_nodes(changed.set)
            try:
                while self._cluster_view.leader.revision == seen.revision:
                    await changed.wait()
                    if running.done():
                        running.result()
                    changed.clear()
                last_heartbeat_at = watch.heard_at
            finally:
                unsubscribe()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
