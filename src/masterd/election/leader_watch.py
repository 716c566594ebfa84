"""A standby's watch over the leader of one term: it receives heartbeats, and challenges the leader if they are missed.

`takeover_reason` is set while the leader's process is known to be dead or the leader is suspected. A later heartbeat,
answer or journal entry ends the suspicion.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from masterd.election.heartbeat_listener import HeartbeatListener, SessionFactory, open_session
from masterd.election.suspicion import Decision, ElectionTiming, Suspicion, SuspicionStep
from masterd.election.timeline import TakeoverPhase, Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from nodestore.cluster.election import LeaderSeen
from nodestore.errors import NodectlError
from nodestore.etcd.session import Compare, Etcd, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Answer, Cause, Challenge, nonce_of
from nodestore.schema.records import JournalEntry
from nodestore.support.tasks import run_until_first_ends

log = logging.getLogger(__name__)

_PUT_S = 1.5


@dataclass(frozen=True, slots=True)
class TakeoverReason:
    """Why to take over from the observed leader. compares: conditions that must hold when the takeover lands."""

    cause: Cause
    why: str
    compares: tuple[Compare, ...] = ()


class LeaderWatch:
    """Watches the leader of one term. `wake` is called whenever there is a new reason to take over."""

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
        open_session: SessionFactory = open_session,
    ) -> None:
        """heard_at: monotonic time of the previous leader's last heartbeat; used while there is no leader."""
        self._etcd, self._keys, self._own_id, self._lease = etcd, keys, own_id, lease
        self._cluster_view, self._replica, self._wake = cluster_view, replica, wake
        self.revision = seen.revision
        self._name = seen.record.id if seen.record else ""
        self._urls = seen.record.urls if seen.record else ()
        self._listener = HeartbeatListener(
            seen, self.on_process_died, self.on_heartbeat, self._broke, self._note_index, open_session
        )
        self._suspicion = Suspicion(self._name, timing, time.monotonic(), streak)
        self._recheck = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next decision; None if no decision is scheduled."""
        self._suspect_decision: Decision | None = None
        self._nonce = ""
        self._answer_revision = 0
        self.begun_at = time.monotonic()
        self.heard_at = (self.begun_at if self._name != own_id else None) if self._name else heard_at
        """Monotonic time of the leader's last heartbeat; before the first one, the start of this watch.

        While there is no leader: the time of the previous leader's last heartbeat, if known. None if this masterd is
        the leader.
        """
        self._marks: dict[TakeoverPhase, float] = {}

    def timeline(self) -> Timeline:
        """Return the timeline from the last heartbeat to the suspicion, for the takeover that follows.

        Phases before the last heartbeat are left out, because that heartbeat made their challenge irrelevant. But a
        stuck leader goes on sending heartbeats, so its timeline begins with the challenge.
        """
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

    def _challengers(self, including_self: bool) -> tuple[str, ...]:
        """Return the standbys whose challenges this leader has not answered, as far as our watch shows."""
        answers = {answer.nonce for answer in self._cluster_view.answers.items.values()}
        unanswered = {
            name
            for name, item in self._cluster_view.challenges.items.items()
            if item.term == self.revision and item.nonce not in answers and name != self._own_id
        }
        return tuple(sorted(unanswered | {self._own_id})) if including_self else tuple(sorted(unanswered))

    @property
    def takeover_reason(self) -> TakeoverReason | None:
        """Why this leader should be replaced; None if it should not."""
        if self._listener.is_dead:
            why = f"the process of {self._name} died: its follow stream broke and its port refuses"
            return TakeoverReason("died", why)
        if self._suspect_decision is None:
            return None
        unanswered = cmp_mod(self._keys.answer(self._own_id), self._answer_revision)
        return TakeoverReason(self._suspect_decision.cause, self._suspect_decision.why, (unanswered,))

    def on_answer_found(self) -> None:
        """Record that a transaction of ours has shown an answer that the cluster view may not show yet.

        The transaction is the challenge itself, or a takeover that failed because the answer key has changed. Even if
        the answer is to an earlier challenge, it proves that the term can still commit. After a failed takeover, every
        other one for the same suspicion would fail too, so a new challenge is needed.
        """
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

    # --- inputs ---

    def on_process_died(self) -> None:
        self._marks["suspected"] = time.monotonic()
        self._wake()

    def _broke(self) -> None:
        self._suspicion.broke()
        self._recheck.set()

    def on_heartbeat(self, stuck_s: float) -> None:
        self.heard_at = time.monotonic()
        self._suspicion.beat(self.heard_at, stuck_s)
        if self._timer is None or self._suspect_decision is not None or self._suspicion.stuck:
            self._recheck.set()
        else:  # the normal case, ten times a second: it must not wake `_decide_loop`
            self._schedule_recheck(self._suspicion.decide(self.heard_at).wake_at)

    def _note_index(self, index: int) -> None:
        self._replica.note_leader_index(self.revision, index)

    def _on_answer(self, master: str) -> None:
        answer = self._cluster_view.answers.items.get(self._own_id) if master == self._own_id else None
        if answer is not None and answer.term == self.revision and answer.nonce == self._nonce:
            self._suspicion.proof(time.monotonic())
            self._recheck_if_challenged()

    def _on_entry(self, entry: JournalEntry) -> None:
        if entry.term == self.revision:
            self._suspicion.proof(time.monotonic())
            self._recheck_if_challenged()

    def _recheck_if_challenged(self) -> None:
        """Decide again if a challenge has been sent, because a proof of life may end the suspicion."""
        if self._nonce:
            self._recheck.set()

    # --- decisions ---

    async def _decide_loop(self) -> None:
        while True:
            self._recheck.clear()
            decision = self._suspicion.decide(time.monotonic())
            if decision.step is SuspicionStep.CHALLENGE:
                await self._challenge()
                continue
            suspected = decision if decision.step is SuspicionStep.SUSPECT else None
            if suspected is not None and self._suspect_decision is None:
                log.warning("suspects the leader: %s", suspected.why)
                self._leave_leader_host()
                self._suspect_decision = suspected
                self._marks["suspected"] = time.monotonic()
                self._wake()
            self._suspect_decision = suspected
            self._schedule_recheck(decision.wake_at)
            try:
                await self._recheck.wait()
            finally:
                self._schedule_recheck(math.inf)

    def _schedule_recheck(self, at: float) -> None:
        """Decide again at this monotonic time; infinite: only when something is received."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(at - time.monotonic(), self._recheck.set)

    async def _challenge(self) -> None:
        """Write a challenge, and record the revision of the answer key: an answer to this challenge increases it."""
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
            self.on_answer_found()  # the leader answered an earlier copy of this challenge (the transaction is hedged)

    def _leave_leader_host(self) -> None:
        """Stop using etcd members on the leader's PC: if the PC failed, they failed with it."""
        hosts = {url.split("://", 1)[-1].rsplit(":", 1)[0] for url in self._urls}
        if hosts & {"127.0.0.1", "localhost", "[::1]"}:
            return  # all programs run on one PC: the host's name identifies nothing
        for address in self._etcd.settings.endpoints:  # even if not in use, so that it is not chosen next
            if address.rsplit(":", 1)[0] in hosts:
                self._etcd.switch_from_address(address)
