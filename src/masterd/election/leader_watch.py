"""A standby's watch over the leader of one term: its heartbeats, and challenges through etcd where those are missed.

Says whether there is ground to take over: the leader's process died, or it is suspected. What is heard later takes
the ground away again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from masterd.election.heartbeat_listener import HeartbeatListener
from masterd.election.suspicion import Decision, ElectionTiming, Suspicion, SuspicionStep
from masterd.election.timeline import TakeoverPhase, Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from nodestore.cluster.election import LeaderSeen
from nodestore.errors import NodectlError
from nodestore.etcd.session import Compare, Etcd, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Answer, Cause, Challenge, Entry, nonce_of
from nodestore.support.tasks import run_until_first_ends

log = logging.getLogger(__name__)

_PUT_S = 1.5


@dataclass(frozen=True, slots=True)
class TakeoverReason:
    """Why to take over from what was seen. `compares`: what must still be so."""

    cause: Cause
    why: str
    compares: tuple[Compare, ...] = ()


class LeaderWatch:
    """Belongs to one term, and ends with it. `wake` is called whenever there is new ground."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        *,
        own_id: str,
        lease: int,
        seen: LeaderSeen,
        cluster_view: ClusterView,
        replica: Replica,
        timing: ElectionTiming,
        streak: int,
        wake: Callable[[], None],
        heard_at: float | None = None,
    ) -> None:
        """`heard_at`: when the leader before was last heard, for a time without one."""
        self._etcd, self._keys, self._own_id, self._lease = etcd, keys, own_id, lease
        self._cluster_view, self._replica, self._wake = cluster_view, replica, wake
        self.revision = seen.revision
        self._name = seen.record.id if seen.record else ""
        self._urls = seen.record.urls if seen.record else ()
        self._listener = HeartbeatListener(seen, self._died, self._beat, self._broke)
        self._suspicion = Suspicion(self._name, timing, time.monotonic(), streak)
        self._recheck = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        """When to look again though nothing is heard; None while that is not waited for."""
        self._suspect_decision: Decision | None = None
        self._nonce = ""
        self._answer_revision = 0
        self.begun_at = time.monotonic()
        self.heard_at = (self.begun_at if self._name != own_id else None) if self._name else heard_at
        """When the leader was last heard; before that, since when it has been watched."""
        self._marks: dict[TakeoverPhase, float] = {}

    def timeline(self) -> Timeline:
        """How this leader came to be suspected, for the takeover that follows. What was heard after a challenge makes
        that one history; but a leader that is stuck beats all the while, so its story begins with the challenge."""
        stuck = (
            self._suspect_decision is not None
            and self._suspect_decision.cause == "stuck"
            and not self._listener.is_dead
        )
        since = -math.inf if stuck or self.heard_at is None else self.heard_at
        marks: dict[TakeoverPhase, float] = {phase: at for phase, at in self._marks.items() if at >= since}
        if self.heard_at is not None and not stuck:
            marks["heard"] = self.heard_at
        return Timeline(marks, self._challengers("challenged" in marks))

    def _challengers(self, me_too: bool) -> tuple[str, ...]:
        """Standbys whose challenges to this leader it has not answered, as far as is known here."""
        answers = {answer.nonce for answer in self._cluster_view.answers.items.values()}
        open_ones = {
            name
            for name, item in self._cluster_view.challenges.items.items()
            if item.term == self.revision and item.nonce not in answers and name != self._own_id
        }
        return tuple(sorted(open_ones | {self._own_id})) if me_too else tuple(sorted(open_ones))

    @property
    def takeover_reason(self) -> TakeoverReason | None:
        """Why this leader should be replaced; None: it should not."""
        if self._listener.is_dead:
            why = f"the process of {self._name} died: its follow stream broke and its port refuses"
            return TakeoverReason("died", why)
        if self._suspect_decision is None:
            return None
        unanswered = cmp_mod(self._keys.answer(self._own_id), self._answer_revision)
        return TakeoverReason(self._suspect_decision.cause, self._suspect_decision.why, (unanswered,))

    def on_answer_found(self) -> None:
        """A takeover found an answer that is newer than our challenge: to this, or, of a slow leader, to one before. In
        either case the term commits; and as that ground can win no more, the leader is to be challenged anew."""
        self._suspicion.proof(time.monotonic())
        self._recheck_if_challenged()

    async def run(self) -> None:
        """Watch until cancelled."""
        if not self._name or self._name == self._own_id:
            return
        unsubscribe = [self._cluster_view.answers.subscribe(self._on_answer), self._replica.subscribe(self._on_entry)]
        try:
            await run_until_first_ends(stream=self._listener.run(), suspicion=self._decide_loop())
        finally:
            for stop in unsubscribe:
                stop()

    # --- what is heard ---

    def _died(self) -> None:
        self._marks["suspected"] = time.monotonic()
        self._wake()

    def _broke(self) -> None:
        self._suspicion.broke()
        self._recheck.set()

    def _beat(self, stuck_s: float) -> None:
        self.heard_at = time.monotonic()
        self._suspicion.beat(self.heard_at, stuck_s)
        if self._timer is None or self._suspect_decision is not None or self._suspicion.stuck:
            self._recheck.set()
        else:  # all is well, ten times a second: it must not even wake who looks
            self._schedule_recheck(self._suspicion.decide(self.heard_at).wake_at)

    def _on_answer(self, master: str) -> None:
        answer = self._cluster_view.answers.items.get(self._own_id) if master == self._own_id else None
        if answer is not None and answer.term == self.revision and answer.nonce == self._nonce:
            self._suspicion.proof(time.monotonic())
            self._recheck_if_challenged()

    def _on_entry(self, entry: Entry) -> None:
        if entry.term == self.revision:
            self._suspicion.proof(time.monotonic())
            self._recheck_if_challenged()

    def _recheck_if_challenged(self) -> None:
        """Something was heard while there was suspicion, or about to be."""
        if self._nonce:
            self._recheck.set()

    # --- what follows ---

    async def _decide_loop(self) -> None:
        while True:
            self._recheck.clear()
            verdict = self._suspicion.decide(time.monotonic())
            if verdict.step is SuspicionStep.CHALLENGE:
                await self._challenge()
                continue
            suspected = verdict if verdict.step is SuspicionStep.SUSPECT else None
            if suspected is not None and self._suspect_decision is None:
                log.warning("suspects the leader: %s", suspected.why)
                self._leave_leader_host()
                self._suspect_decision = suspected
                self._marks["suspected"] = time.monotonic()
                self._wake()
            self._suspect_decision = suspected
            self._schedule_recheck(verdict.wake_at)
            try:
                await self._recheck.wait()
            finally:
                self._schedule_recheck(math.inf)

    def _schedule_recheck(self, at: float) -> None:
        """Look again then, on the monotonic clock; infinite: only when something is heard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(at - time.monotonic(), self._recheck.set)

    async def _challenge(self) -> None:
        """Put a challenge, noting which answer there is already: only a newer one can be to this."""
        self._nonce = secrets.token_hex(8)
        self._marks = {"challenged": time.monotonic()}
        challenge = Challenge(term=self.revision, nonce=self._nonce)
        put = op_put(self._keys.challenge(self._own_id), challenge.encode(), lease=self._lease)
        try:
            result = await self._etcd.txn_hedged([], [put, op_get(self._keys.answer(self._own_id))], timeout_s=_PUT_S)
        except NodectlError as error:
            log.debug("could not challenge %s: %s", self._name, error)
            self._suspicion.not_challenged(time.monotonic())
            return
        before = result.range(1).first
        self._answer_revision = 0 if before is None else before.mod_revision
        self._marks["taken_by_etcd"] = time.monotonic()
        self._suspicion.challenged(time.monotonic())
        if before is not None and nonce_of(Answer, before) == self._nonce:
            self.on_answer_found()  # it came between the two copies of our challenge

    def _leave_leader_host(self) -> None:
        """An etcd member on the leader's PC has gone with it, if it was the PC: do not wait for that to show."""
        hosts = {url.split("://", 1)[-1].rsplit(":", 1)[0] for url in self._urls}
        if hosts & {"127.0.0.1", "localhost", "[::1]"}:
            return  # everything runs there: a host's name tells nothing
        for address in self._etcd.settings.endpoints:  # also when it is not in use: it must not be the next one either
            if address.rsplit(":", 1)[0] in hosts:
                self._etcd.switch_from_address(address)
