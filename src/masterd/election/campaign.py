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

from masterd.election.leader_watch import Ground, LeaderWatch
from masterd.election.suspicion import Timing, streak_after
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import Board
from masterd.replication.replica import Replica
from nodestore.cluster.election import (
    EpochSeen,
    LeaderSeen,
    Lost,
    Won,
    claim,
    ensure_epoch,
    how_it_ended,
    new_leader_record,
    takeover,
)
from nodestore.errors import Garbage, LeaseLost, NodectlError, NoSpaceUnknown, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, cmp_mod, op_delete
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import Retired
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_ATTEMPT_S = 1.0
_READY_S = 0.5
"""For so long an order to take over waits for a masterd that is just becoming a standby."""
_REHEARSE_AFTER_S = 0.001  # the takeover itself goes first
_LOOK_S = 1.0
_BACK_OFF_S = 0.1
_ATTEMPTS_KEPT = 64
_CAUGHT_UP_COMMANDS = 20_000  # a replica applies so many in well under a second


@dataclass(frozen=True, slots=True)
class Me:
    """How this masterd presents itself."""

    id: str
    host: str
    urls: tuple[str, ...]
    priority: int | None
    """None: the one that the configuration gives it."""
    nonce: str


@dataclass(slots=True)
class Order:
    """A switchover: the leader itself asks this standby to take its term over."""

    revision: int
    actor: str
    done: asyncio.Future[Won]

    def obeyed(self, won: Won) -> None:
        """Tell whoever asked, if anybody still waits."""
        if not self.done.done():
            self.done.set_result(won)

    def refuse(self, error: NodectlError) -> None:
        """Tell whoever asked, if anybody still waits."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()


def ground_for(
    seen: LeaderSeen, before: LeaderSeen, me: Me, watched: Ground | None, under_our_name: Candidate | None
) -> Ground | None:
    """Why the observed `leader` should be replaced; None: it should not. `before`: the last readable one; `watched`:
    what watching it has come to; `under_our_name`: the candidacy, which a later process of our name takes over."""
    name = before.record.id if before.record else ""
    if seen.garbage is not None:
        return Ground("unreadable", f"the leader key is unreadable: {seen.garbage}")
    if seen.record is None:
        if not name:
            return Ground("first", "nobody led")
        return Ground("expired", f"{name} is gone: its lease ran out")
    if seen.lease == 0:
        return Ground("unreadable", f"the leader key of {seen.record.id} hangs on no lease")
    if watched is not None:
        return watched
    newest = under_our_name is not None and under_our_name.nonce == me.nonce
    if seen.record.id == me.id and seen.record.host == me.host and newest:
        return Ground("restarted", f"the leader was {me.id}'s own earlier process")
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


def rank_of(me: str, gone: str | None, candidates: Mapping[str, Candidate]) -> int:
    """How many candidates should go first."""
    standing = by_rank(candidate for candidate in candidates.values() if candidate.id != gone)
    names = [candidate.id for candidate in standing]
    return names.index(me) if me in names else len(names)


class Campaign:
    """One masterd's campaigns, one after another."""

    def __init__(self, etcd: Etcd, keys: Keys, me: Me, board: Board, replica: Replica, timing: Timing) -> None:
        self._etcd, self._keys, self._me = etcd, keys, me
        self._board, self._replica, self._timing = board, replica, timing
        self._attempts: deque[str] = deque(maxlen=_ATTEMPTS_KEPT)
        """Nonces of takeovers whose outcome this process may still have to learn."""
        self._wake = asyncio.Event()
        self._order: Order | None = None
        self._undecided: tuple[str, Order] | None = None
        """One that was obeyed, and the nonce of the takeover whose outcome is not known yet."""
        self._campaigning = asyncio.Event()
        self._watch: LeaderWatch | None = None
        self.timeline = Timeline()
        """Of the newest attempt."""
        self._epoch_seen: EpochSeen | None = None
        self._held_back = False
        self._pause_passed_over = 0
        self._limited_log = RateLimitedLog(log, math.inf, repeats=logging.DEBUG)
        """What hinders a takeover may do so for days."""
        self._lost = ""
        """Why the most recent takeover attempt was lost."""
        self.trying = False
        """Whether a takeover of this masterd is under way, or was won and the term has not begun yet."""
        self.rehearse: Callable[[], None] = lambda: None
        """Called while a takeover is on its way: the time to prepare for its success."""
        self._retired = Retired()

    def hold_back(self) -> None:
        """The store holds what nobody can lead on: do not try again before journal and head are whole. Else two masters
        would take turns for ever, and write a term each time."""
        self._held_back = True

    async def win(self, lease: int) -> Won:
        """Observe until there is ground to take over, and do so. Returns with a term won; outages are waited out.
        LeaseLost when etcd says that the lease is gone."""
        await self._retired.gone()
        self.settled()
        unsubscribe = self._board.subscribe(self._wake.set)
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
                await set_within(self._wake, _LOOK_S)
        finally:
            unsubscribe()
            self._campaigning.clear()
            self._retired.retire(prepared, following)
            if self._order is not None:
                self._order.refuse(Unavailable("this standby stopped campaigning"))
            if self._undecided is not None:
                self._undecided[1].refuse(OutcomeUnknown("this standby stopped campaigning; its takeover may yet land"))
            self._order = self._undecided = None

    async def closed(self) -> None:
        """Until nothing of a campaign is left."""
        await self._retired.gone()

    async def take_over_from(self, revision: int, actor: str, timeout_s: float) -> Won:
        """Take over the term that the leader hands over. Unavailable when that was not begun in time, OutcomeUnknown
        when it was, and has not come to its end."""
        order = Order(revision, actor, asyncio.get_running_loop().create_future())
        if not await set_within(self._campaigning, _READY_S):
            raise Unavailable(f"{self._me.id} does not stand by just now")
        if self._order is not None:
            self._order.refuse(Unavailable("another request to take over came after this one"))
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

    async def _step(self, lease: int) -> Won | None:
        await self._board.leader_known.wait()
        seen = self._board.leader
        try:
            if seen.record is not None and seen.record.nonce in self._attempts:
                return await self._take_up(seen, lease)
            order, self._order = self._order, None
            if order is not None:
                return await self._obey(order, lease)
            if self._board.paused is not None:
                return None
            ground = self._ground()
            if ground is None or not await self._let_better_ones_go_first(seen):
                return None
            if self._held_back:
                await self._replica.check()
                self._held_back = False
            if ground.cause == "expired" and self._board.last_leader.record is not None:
                ended = await how_it_ended(self._etcd, self._keys, self._board.last_leader.record.nonce)
                if ended is not None:
                    ground = Ground("resigned", f"{self._board.last_leader.record.id} gave way: {ended}")
            return await self._try(ground, seen, lease)
        except LeaseLost:  # by etcd's own word: there is no use in waiting until a keepalive finds out
            raise
        except NoSpaceUnknown as error:  # should it have landed after all, our nonce in `leader` tells
            self._limited_log.log(logging.WARNING, f"takeover not possible now: {error}")
            await asyncio.sleep(_LOOK_S)
        except (Unavailable, OutcomeUnknown) as error:
            self._limited_log.log(logging.WARNING, f"takeover not possible now: {error}")
        except Garbage as error:
            self._limited_log.log(logging.ERROR, f"nobody can lead: {error}")
            await asyncio.sleep(_LOOK_S)
        except NodectlError as error:
            self._limited_log.log(logging.ERROR, f"takeover refused: {error}")
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(_BACK_OFF_S)
        self._wake.set()
        return None

    def _ground(self) -> Ground | None:
        seen, me = self._board.leader, self._me
        watch = self._watch_over(seen)
        under_our_name = self._board.candidates.items.get(me.id)
        return ground_for(seen, self._board.last_leader, me, watch.ground if watch else None, under_our_name)

    def _watch_over(self, seen: LeaderSeen) -> LeaderWatch | None:
        """The watch over that term; None while it is over another one."""
        return self._watch if self._watch is not None and self._watch.revision == seen.revision else None

    async def _let_better_ones_go_first(self, seen: LeaderSeen) -> bool:
        """Wait our turn; False when somebody acted meanwhile or the ground is gone."""
        gone = self._board.last_leader.record.id if self._board.last_leader.record else None
        rank = rank_of(self._me.id, gone, self._board.candidates.items)
        deadline = time.monotonic() + rank * self._timing.stagger_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._board.leader != seen:
                return False
            await asyncio.sleep(min(left_s, 0.01))
        return self._board.leader == seen and self._ground() is not None

    async def _obey(self, order: Order, lease: int) -> Won | None:
        seen = self._board.leader
        if seen.revision != order.revision:
            seen = LeaderSeen(order.revision, seen.record, seen.lease)  # our watch lags: the txn compares anyway
        try:
            won = await self._try(Ground("switchover", f"switchover asked for by {order.actor}"), seen, lease)
        except OutcomeUnknown:
            self._undecided = self._attempts[-1], order  # it may land yet, so whoever asked waits
            raise
        except NodectlError as error:
            order.refuse(error)
            raise
        if won is None:
            order.refuse(Unavailable(f"{self._me.id} did not take over: {self._lost}"))
        else:
            order.obeyed(won)
        return won

    async def _try(self, ground: Ground, seen: LeaderSeen, lease: int) -> Won | None:
        epoch = await self._epoch()
        nonce = secrets.token_hex(8)
        self._attempts.append(nonce)
        me = self._me
        record = new_leader_record(
            master=me.id, host=me.host, urls=me.urls, nonce=nonce, cause=ground.cause, why=ground.why,
            streak=streak_after(ground.cause, seen.record.streak if seen.record else 0, self._held_s(seen)),
        )  # fmt: skip
        watch = self._watch_over(seen)
        # a leader that has just gone may still be the one that is watched over: when it was heard last is its story too
        told = self._watch if seen.record is None else watch
        self.timeline = told.timeline() if told is not None else Timeline()
        self.timeline.mark("sent", time.monotonic())
        self.trying, won = True, False
        prepare = asyncio.get_running_loop().call_later(_REHEARSE_AFTER_S, self.rehearse)
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
                paused=self._pause_passed_over,
            )
            won = isinstance(outcome, Won)
        finally:
            prepare.cancel()
            if not won:
                self.settled()
        if isinstance(outcome, Lost):
            self._pause_passed_over = outcome.garbage
            if outcome.other_epoch:
                self._epoch_seen = None
            self._board.saw_leader(outcome.leader)
            if outcome.answered and watch is not None:
                watch.answered_meanwhile()
            self._lost = outcome.why
            self._limited_log.log(logging.INFO, f"did not take over: {outcome.why}")
            if not outcome.garbage:
                await asyncio.sleep(_BACK_OFF_S)  # our watch may not have seen yet who was faster
            self._wake.set()
            return None
        self._limited_log.reset()
        self.timeline.mark("won", time.monotonic())
        log.info("took over, term %s: %s", outcome.fence.term, ground.why)
        return outcome

    def settled(self) -> None:
        """The newest takeover was lost, or what it won has begun, or never will."""
        if self.trying:
            self.trying = False
            self._board.tell()

    async def _take_up(self, seen: LeaderSeen, lease: int) -> Won | None:
        """A takeover of ours landed after all. Deleted if on a lease no longer held: it would vanish soon."""
        if seen.lease != lease:
            await self._etcd.txn([cmp_mod(self._keys.leader, seen.revision)], [op_delete(self._keys.leader)])
            return None
        outcome = await claim(
            self._etcd, self._keys, seen=seen, epoch=await self._epoch(), next_index=self._replica.index + 1
        )
        if isinstance(outcome, Lost):  # or the epoch is another one than we know of
            self._epoch_seen = None
            self._board.saw_leader(outcome.leader)
            await asyncio.sleep(_BACK_OFF_S)
            self._wake.set()
            return None
        log.info("an earlier takeover had landed: leading, term %s", outcome.fence.term)
        if self._undecided is not None and self._undecided[0] == outcome.fence.nonce:
            self._undecided[1].obeyed(outcome)
        return outcome

    def _held_s(self, seen: LeaderSeen) -> float:
        """For how long this process has seen that term hold."""
        watch = self._watch_over(seen)
        return time.monotonic() - watch.begun if watch is not None else 0.0

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
            seen = self._board.leader
            streak = seen.record.streak if seen.record else 0
            self._watch = watch = LeaderWatch(
                self._etcd, self._keys, me=self._me.id, lease=lease, seen=seen, board=self._board,
                replica=self._replica, timing=self._timing, streak=streak, wake=self._wake.set, heard=heard,
            )  # fmt: skip
            running = asyncio.create_task(watch.run(), name=f"watch over the leader of term {seen.revision}")
            changed = asyncio.Event()
            unsubscribe = self._board.subscribe(changed.set)
            try:
                while self._board.leader.revision == seen.revision:
                    await changed.wait()
                    changed.clear()
                heard = watch.heard
            finally:
                unsubscribe()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
