"""When a standby tries to take over, and how long it lets better-placed ones go first.

Trying is safe at any time: the takeover compares the `leader` it has observed. So everything here is only about
being quick when it is needed and quiet when it is not.
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
    resignation_reason,
    takeover,
)
from nodestore.errors import Garbage, LeaseLost, NodectlError, NoSpaceUnknown, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, cmp_mod, op_delete
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import CancelledTasks
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_ATTEMPT_S = 1.0
_STANDBY_WAIT_S = 0.5
"""For so long an order to take over waits for a masterd that is just becoming a standby."""
_WARM_START_DELAY_S = 0.001  # the takeover itself goes first
_CHECK_EVERY_S = 1.0
_BACK_OFF_S = 0.1
_ATTEMPTS_KEPT = 64
_CAUGHT_UP_COMMANDS = 20_000  # a replica applies so many in well under a second


@dataclass(frozen=True, slots=True)
class MasterIdentity:
    """How this masterd presents itself."""

    id: str
    host: str
    urls: tuple[str, ...]
    priority: int | None
    """None: the one that the configuration gives it."""
    nonce: str


@dataclass(slots=True)
class SwitchoverOrder:
    """A switchover: the leader itself asks this standby to take its term over."""

    revision: int
    actor: str
    done: asyncio.Future[TakeoverWon]

    def resolve(self, won: TakeoverWon) -> None:
        """Tell whoever asked, if anybody still waits."""
        if not self.done.done():
            self.done.set_result(won)

    def fail(self, error: NodectlError) -> None:
        """Tell whoever asked, if anybody still waits."""
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
    """Why the observed `leader` should be replaced; None: it should not. `before`: the last readable one; `watched`:
    what watching it has come to; `own_candidacy`: the candidacy, which a later process of our name takes over."""
    name = before.record.id if before.record else ""
    if seen.garbage is not None:
        return TakeoverReason("unreadable", f"the leader key is unreadable: {seen.garbage}")
    if seen.record is None:
        if not name:
            return TakeoverReason("first", "nobody led")
        return TakeoverReason("expired", f"{name} is gone: its lease ran out")
    if seen.lease == 0:
        return TakeoverReason("unreadable", f"the leader key of {seen.record.id} hangs on no lease")
    if watched is not None:
        return watched
    newest = own_candidacy is not None and own_candidacy.nonce == me.nonce
    if seen.record.id == me.id and seen.record.host == me.host and newest:
        return TakeoverReason("restarted", f"the leader was {me.id}'s own earlier process")
    return None


def by_rank(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best first: those that are caught up, not on the PC of etcd's leader, of higher priority; then by name.

    They say how far they are every two seconds, so those not far behind the best count as caught up: each replica has
    to read on to `head` anyway.
    """
    standing = list(candidates)
    best = max((candidate.index for candidate in standing), default=0)

    def rank(candidate: Candidate) -> tuple[bool, bool, int, str]:
        behind = candidate.index < best - _CAUGHT_UP_COMMANDS
        return behind, candidate.beside_etcd_leader, -candidate.priority, candidate.id

    return sorted(standing, key=rank)


def rank_of(own_id: str, excluded_id: str | None, candidates: Mapping[str, Candidate]) -> int:
    """How many candidates should go first."""
    standing = by_rank(candidate for candidate in candidates.values() if candidate.id != excluded_id)
    names = [candidate.id for candidate in standing]
    return names.index(own_id) if own_id in names else len(names)


class Campaign:
    """One masterd's campaigns, one after another."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        me: MasterIdentity,
        cluster_view: ClusterView,
        replica: Replica,
        timing: ElectionTiming,
    ) -> None:
        self._etcd, self._keys, self._me = etcd, keys, me
        self._cluster_view, self._replica, self._timing = cluster_view, replica, timing
        self._attempts: deque[str] = deque(maxlen=_ATTEMPTS_KEPT)
        """Nonces of takeovers whose outcome this process may still have to learn."""
        self._wake = asyncio.Event()
        self._order: SwitchoverOrder | None = None
        self._undecided: tuple[str, SwitchoverOrder] | None = None
        """One that was obeyed, and the nonce of the takeover whose outcome is not known yet."""
        self._campaigning = asyncio.Event()
        self._watch: LeaderWatch | None = None
        self.timeline = Timeline()
        """Of the newest attempt."""
        self._epoch_seen: EpochSeen | None = None
        self._needs_store_check = False
        self._ignored_pause_revision = 0
        self._limited_log = RateLimitedLog(log, math.inf, repeats=logging.DEBUG)
        """What hinders a takeover may do so for days."""
        self._lost = ""
        """Why the most recent takeover attempt was lost."""
        self.is_taking_over = False
        """Whether a takeover of this masterd is under way, or was won and the term has not begun yet."""
        self.on_takeover_sent: Callable[[], None] = lambda: None
        """Called while a takeover is on its way: the time to prepare for its success."""
        self._cancelled_tasks = CancelledTasks()

    def require_store_check(self) -> None:
        """The store holds what nobody can lead on: do not try again before journal and head are whole. Else two masters
        would take turns for ever, and write a term each time."""
        self._needs_store_check = True

    async def win(self, lease: int) -> TakeoverWon:
        """Observe until there is ground to take over, and do so. Returns with a term won; outages are waited out.
        LeaseLost when etcd says that the lease is gone."""
        await self._cancelled_tasks.wait_ended()
        self.end_attempt()
        unsubscribe = self._cluster_view.subscribe(self._wake.set)
        prepared = asyncio.create_task(self._prepare(), name="read the epoch")
        following = asyncio.create_task(self._watch_leaders(lease), name="follow the leader")
        self._campaigning.set()
        try:
            while True:
                self._wake.clear()  # before looking: what changes from here on is looked at again
                won = await self._step(lease)
                if won is not None:
                    # Claimed once: a term that was given up, but could not be resigned, is taken over like another's.
                    with suppress(ValueError):
                        self._attempts.remove(won.fence.nonce)
                    return won
                await set_within(self._wake, _CHECK_EVERY_S)
        finally:
            unsubscribe()
            self._campaigning.clear()
            self._cancelled_tasks.cancel(prepared, following)
            if self._order is not None:
                self._order.fail(Unavailable("this standby stopped campaigning"))
            if self._undecided is not None:
                self._undecided[1].fail(OutcomeUnknown("this standby stopped campaigning; its takeover may yet land"))
            self._order = self._undecided = None

    async def wait_closed(self) -> None:
        """Until nothing of a campaign is left."""
        await self._cancelled_tasks.wait_ended()

    async def take_over_from(self, revision: int, actor: str, timeout_s: float) -> TakeoverWon:
        """Take over the term that the leader hands over. Unavailable when that was not begun in time, OutcomeUnknown
        when it was, and has not come to its end."""
        order = SwitchoverOrder(revision, actor, asyncio.get_running_loop().create_future())
        if not await set_within(self._campaigning, _STANDBY_WAIT_S):
            raise Unavailable(f"{self._me.id} does not stand by just now")
        if self._order is not None:
            self._order.fail(Unavailable("another request to take over came after this one"))
        self._order = order
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(order.done)
        except TimeoutError:
            why = f"{self._me.id} could not take over within {timeout_s:g} s"
            if self._order is order:
                raise Unavailable(why) from None
            raise OutcomeUnknown(f"{why}, and may yet") from None
        finally:
            if self._order is order:  # not begun yet: the leader goes on, and must not be deposed later
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
            ground = self._takeover_reason()
            if ground is None or not await self._wait_for_rank(seen):
                return None
            if self._needs_store_check:
                await self._replica.check_store()
                self._needs_store_check = False
            if ground.cause == "expired" and self._cluster_view.last_leader.record is not None:
                ended = await resignation_reason(self._etcd, self._keys, self._cluster_view.last_leader.record.nonce)
                if ended is not None:
                    ground = TakeoverReason("resigned", f"{self._cluster_view.last_leader.record.id} gave way: {ended}")
            return await self._attempt_takeover(ground, seen, lease)
        except LeaseLost:  # by etcd's own word: there is no use in waiting until a keepalive finds out
            raise
        except NoSpaceUnknown as error:  # should it have landed after all, our nonce in `leader` tells
            self._limited_log.log(logging.WARNING, f"takeover not possible now: {error}")
            await asyncio.sleep(_CHECK_EVERY_S)
        except (Unavailable, OutcomeUnknown) as error:
            self._limited_log.log(logging.WARNING, f"takeover not possible now: {error}")
        except Garbage as error:
            self._limited_log.log(logging.ERROR, f"nobody can lead: {error}")
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
        under_our_name = self._cluster_view.candidates.items.get(me.id)
        return takeover_reason(
            seen, self._cluster_view.last_leader, me, watch.takeover_reason if watch else None, under_our_name
        )

    def _watch_of_term(self, seen: LeaderSeen) -> LeaderWatch | None:
        """The watch over that term; None while it is over another one."""
        return self._watch if self._watch is not None and self._watch.revision == seen.revision else None

    async def _wait_for_rank(self, seen: LeaderSeen) -> bool:
        """Wait our turn; False when somebody acted meanwhile or the ground is gone."""
        gone = self._cluster_view.last_leader.record.id if self._cluster_view.last_leader.record else None
        rank = rank_of(self._me.id, gone, self._cluster_view.candidates.items)
        deadline = time.monotonic() + rank * self._timing.stagger_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._cluster_view.leader != seen:
                return False
            await asyncio.sleep(min(left_s, 0.01))
        return self._cluster_view.leader == seen and self._takeover_reason() is not None

    async def _execute_order(self, order: SwitchoverOrder, lease: int) -> TakeoverWon | None:
        seen = self._cluster_view.leader
        if seen.revision != order.revision:
            seen = LeaderSeen(order.revision, seen.record, seen.lease)  # our watch lags: the txn compares anyway
        try:
            won = await self._attempt_takeover(
                TakeoverReason("switchover", f"switchover asked for by {order.actor}"), seen, lease
            )
        except OutcomeUnknown:
            self._undecided = self._attempts[-1], order  # it may land yet, so whoever asked waits
            raise
        except NodectlError as error:
            order.fail(error)
            raise
        if won is None:
            order.fail(Unavailable(f"{self._me.id} did not take over: {self._lost}"))
        else:
            order.resolve(won)
        return won

    async def _attempt_takeover(self, ground: TakeoverReason, seen: LeaderSeen, lease: int) -> TakeoverWon | None:
        epoch = await self._epoch()
        nonce = secrets.token_hex(8)
        self._attempts.append(nonce)
        me = self._me
        record = new_leader_record(
            master=me.id, host=me.host, urls=me.urls, nonce=nonce, cause=ground.cause, why=ground.why,
            streak=streak_after(ground.cause, seen.record.streak if seen.record else 0, self._observed_for_s(seen)),
        )  # fmt: skip
        watch = self._watch_of_term(seen)
        # a leader that has just gone may still be the one that is watched over: when it was heard last is its story too
        told = self._watch if seen.record is None else watch
        self.timeline = told.timeline() if told is not None else Timeline()
        self.timeline.mark("sent", time.monotonic())
        self.is_taking_over, won = True, False
        prepare = asyncio.get_running_loop().call_later(_WARM_START_DELAY_S, self.on_takeover_sent)
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
                compares=ground.compares,
                paused=self._ignored_pause_revision,
            )
            won = isinstance(outcome, TakeoverWon)
        finally:
            prepare.cancel()
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
                await asyncio.sleep(_BACK_OFF_S)  # our watch may not have seen yet who was faster
            self._wake.set()
            return None
        self._limited_log.reset()
        self.timeline.mark("won", time.monotonic())
        log.info("took over, term %s: %s", outcome.fence.term, ground.why)
        return outcome

    def end_attempt(self) -> None:
        """The newest takeover was lost, or what it won has begun, or never will."""
        if self.is_taking_over:
            self.is_taking_over = False
            self._cluster_view.notify()

    async def _claim_landed_takeover(self, seen: LeaderSeen, lease: int) -> TakeoverWon | None:
        """A takeover of ours landed after all. Deleted if on a lease no longer held: it would vanish soon."""
        if seen.lease != lease:
            await self._etcd.txn([cmp_mod(self._keys.leader, seen.revision)], [op_delete(self._keys.leader)])
            return None
        outcome = await confirm_takeover(
            self._etcd, self._keys, seen=seen, epoch=await self._epoch(), next_index=self._replica.index + 1
        )
        if isinstance(outcome, TakeoverLost):  # or the epoch is another one than we know of
            self._epoch_seen = None
            self._cluster_view.observe_leader(outcome.leader)
            await asyncio.sleep(_BACK_OFF_S)
            self._wake.set()
            return None
        log.info("an earlier takeover had landed: leading, term %s", outcome.fence.term)
        if self._undecided is not None and self._undecided[0] == outcome.fence.nonce:
            self._undecided[1].resolve(outcome)
        return outcome

    def _observed_for_s(self, seen: LeaderSeen) -> float:
        """For how long this process has seen that term hold."""
        watch = self._watch_of_term(seen)
        return time.monotonic() - watch.begun_at if watch is not None else 0.0

    async def _prepare(self) -> None:
        """Read the epoch ahead of time: when a takeover is needed, a read may take long."""
        with suppress(NodectlError):
            await self._epoch()

    async def _epoch(self) -> EpochSeen:
        """As last read: the takeover compares it, and reads it anew when it was another one."""
        if self._epoch_seen is None:
            self._epoch_seen = await ensure_epoch(self._etcd, self._keys)
        return self._epoch_seen

    async def _watch_leaders(self, lease: int) -> None:
        """Always over the leader last seen."""
        heard: float | None = None
        while True:
            seen = self._cluster_view.leader
            streak = seen.record.streak if seen.record else 0
            self._watch = watch = LeaderWatch(
                self._etcd, self._keys, own_id=self._me.id, lease=lease, seen=seen, cluster_view=self._cluster_view,
                replica=self._replica, timing=self._timing, streak=streak, wake=self._wake.set, heard_at=heard,
            )  # fmt: skip
            running = asyncio.create_task(watch.run(), name=f"watch over the leader of term {seen.revision}")
            changed = asyncio.Event()
            unsubscribe = self._cluster_view.subscribe(changed.set)
            try:
                while self._cluster_view.leader.revision == seen.revision:
                    await changed.wait()
                    changed.clear()
                heard = watch.heard_at
            finally:
                unsubscribe()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
