"""When a standby tries to take over, and how long it lets better-placed ones go first.

Trying is safe at any time: the takeover compares the `leader` it has observed. So everything here is only about
being quick when it is needed and quiet when it is not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from masterd.board import Board
from masterd.follow import FollowStream
from masterd.replica import Replica
from nodestore.election import (
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
from nodestore.errors import Garbage, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd import Etcd, cmp_mod, op_delete
from nodestore.keys import Keys
from nodestore.models import Candidate, Cause

log = logging.getLogger(__name__)

STAGGER_S = 0.04
_ATTEMPT_S = 1.0
_LOOK_S = 1.0
_BACK_OFF_S = 0.1
_ATTEMPTS_KEPT = 64


@dataclass(frozen=True, slots=True)
class Me:
    """How this masterd presents itself."""

    id: str
    host: str
    urls: tuple[str, ...]
    priority: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Ground:
    """Why to take over from what was seen."""

    cause: Cause
    why: str


@dataclass(slots=True)
class Order:
    """A switchover: the leader itself asks this standby to take its term over."""

    revision: int
    actor: str
    done: asyncio.Future[Won]


def ground_for(seen: LeaderSeen, before: LeaderSeen, me: Me, dead: bool) -> Ground | None:
    """Why the observed `leader` should be replaced; None: it should not. `before`: the last readable one."""
    name = before.record.id if before.record else ""
    if seen.garbage is not None:
        return Ground("unreadable", f"the leader key is unreadable: {seen.garbage}")
    if seen.record is None:
        if not name:
            return Ground("first", "nobody led")
        return Ground("expired", f"{name} is gone: its lease ran out")
    if seen.lease == 0:
        return Ground("unreadable", f"the leader key of {seen.record.id} hangs on no lease")
    if dead:
        return Ground("died", f"the process of {seen.record.id} died: its follow stream broke and its port refuses")
    if seen.record.id == me.id and seen.record.host == me.host:
        return Ground("restarted", f"the leader was {me.id}'s own earlier process")
    return None


def rank_of(me: str, gone: str | None, candidates: Mapping[str, Candidate]) -> int:
    """How many candidates should go first: the most caught up, then by priority, then by name."""
    standing = sorted(
        (candidate for candidate in candidates.values() if candidate.id != gone),
        key=lambda candidate: (-candidate.index, -candidate.priority, candidate.id),
    )
    names = [candidate.id for candidate in standing]
    return names.index(me) if me in names else len(names)


class Campaign:
    """One masterd's campaigns, one after another."""

    def __init__(self, etcd: Etcd, keys: Keys, me: Me, board: Board, replica: Replica) -> None:
        self._etcd, self._keys, self._me = etcd, keys, me
        self._board, self._replica = board, replica
        self._attempts: deque[str] = deque(maxlen=_ATTEMPTS_KEPT)
        """Nonces of takeovers whose outcome this process may still have to learn."""
        self._wake = asyncio.Event()
        self._order: Order | None = None
        self._stream: FollowStream | None = None

    async def win(self, lease: int) -> Won:
        """Observe until there is ground to take over, and do so. Returns with a term won; outages are waited out."""
        unsubscribe = self._board.subscribe(self._wake.set)
        following = asyncio.create_task(self._follow_leaders(), name="follow the leader")
        try:
            while True:
                self._wake.clear()  # before looking: what changes from here on is looked at again
                won = await self._step(lease)
                if won is not None:
                    # Claimed once: a term that was given up, but could not be resigned, is taken over like another's.
                    with suppress(ValueError):
                        self._attempts.remove(won.fence.nonce)
                    return won
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            unsubscribe()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            if self._order is not None and not self._order.done.done():
                self._order.done.set_exception(Unavailable("this standby stopped campaigning"))
                self._order.done.exception()
            self._order = None

    async def take_over_from(self, revision: int, actor: str, timeout_s: float) -> Won:
        """Take over the term that the leader hands over. Unavailable when that did not come about in time."""
        order = Order(revision, actor, asyncio.get_running_loop().create_future())
        self._order = order
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(order.done)
        except TimeoutError:
            raise Unavailable(f"{self._me.id} could not take over within {timeout_s:g} s") from None

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
            if ground.cause == "expired" and self._board.last_leader.record is not None:
                ended = await how_it_ended(self._etcd, self._keys, self._board.last_leader.record.nonce)
                if ended is not None:
                    ground = Ground("resigned", f"{self._board.last_leader.record.id} gave way: {ended}")
            return await self._try(ground, seen, lease)
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("takeover not possible now: %s", error)
        except Garbage as error:
            log.error("nobody can lead: %s", error)
            await asyncio.sleep(_LOOK_S)
        except NodectlError as error:
            log.error("takeover refused: %s", error)
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(_BACK_OFF_S)
        self._wake.set()
        return None

    def _ground(self) -> Ground | None:
        seen = self._board.leader
        dead = self._stream is not None and self._stream.dead and self._stream.revision == seen.revision
        return ground_for(seen, self._board.last_leader, self._me, dead)

    async def _let_better_ones_go_first(self, seen: LeaderSeen) -> bool:
        """Wait our turn; False when somebody acted meanwhile or the ground is gone."""
        gone = self._board.last_leader.record.id if self._board.last_leader.record else None
        rank = rank_of(self._me.id, gone, self._board.candidates.items)
        deadline = time.monotonic() + rank * STAGGER_S
        while (left_s := deadline - time.monotonic()) > 0:
            if self._board.leader != seen:
                return False
            await asyncio.sleep(min(left_s, 0.01))
        return self._board.leader == seen and self._ground() is not None

    async def _obey(self, order: Order, lease: int) -> Won | None:
        seen = self._board.leader
        if seen.revision != order.revision:
            seen = LeaderSeen(order.revision, seen.record, seen.lease)  # our watch lags: the txn compares anyway
        won = await self._try(Ground("switchover", f"switchover asked for by {order.actor}"), seen, lease)
        if won is not None and not order.done.done():
            order.done.set_result(won)
        return won

    async def _try(self, ground: Ground, seen: LeaderSeen, lease: int) -> Won | None:
        epoch = await self._epoch()
        nonce = secrets.token_hex(8)
        self._attempts.append(nonce)
        me = self._me
        record = new_leader_record(
            master=me.id, host=me.host, urls=me.urls, nonce=nonce, cause=ground.cause, why=ground.why
        )
        outcome = await takeover(
            self._etcd,
            self._keys,
            me=record,
            lease=lease,
            seen=seen,
            epoch=epoch,
            next_index=self._replica.index + 1,
            timeout_s=_ATTEMPT_S,
        )
        if isinstance(outcome, Lost):
            log.info("did not take over: %s", outcome.why)
            await asyncio.sleep(_BACK_OFF_S)  # our watch may not have seen yet who was faster
            self._wake.set()
            return None
        log.info("took over, term %s: %s", outcome.fence.term, ground.why)
        return outcome

    async def _take_up(self, seen: LeaderSeen, lease: int) -> Won | None:
        """A takeover of ours landed after all. Deleted if on a lease no longer held: it would vanish soon."""
        if seen.lease != lease:
            await self._etcd.txn([cmp_mod(self._keys.leader, seen.revision)], [op_delete(self._keys.leader)])
            return None
        outcome = await claim(
            self._etcd, self._keys, seen=seen, epoch=await self._epoch(), next_index=self._replica.index + 1
        )
        if isinstance(outcome, Lost):
            return None
        log.info("an earlier takeover had landed: leading, term %s", outcome.fence.term)
        return outcome

    async def _epoch(self) -> EpochSeen:
        return await ensure_epoch(self._etcd, self._keys)

    async def _follow_leaders(self) -> None:
        """One follow stream, always of the leader last seen."""
        while True:
            seen = self._board.leader
            stream = FollowStream(seen, self._wake.set)
            self._stream = stream
            running = asyncio.create_task(stream.run(), name=f"follow stream of term {seen.revision}")
            changed = asyncio.Event()
            unsubscribe = self._board.subscribe(changed.set)
            try:
                while self._board.leader.revision == seen.revision:
                    await changed.wait()
                    changed.clear()
            finally:
                unsubscribe()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
