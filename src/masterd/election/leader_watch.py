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

from masterd.election.heartbeat_listener import FollowStream
from masterd.election.suspicion import Step, Suspicion, Timing, Verdict
from masterd.election.timeline import Phase, Timeline
from masterd.replication.cluster_view import Board
from masterd.replication.replica import Replica
from nodestore.cluster.election import LeaderSeen
from nodestore.errors import NodectlError
from nodestore.etcd.session import Compare, Etcd, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Answer, Cause, Challenge, Entry, nonce_of
from nodestore.support.tasks import together

log = logging.getLogger(__name__)

_PUT_S = 1.5


@dataclass(frozen=True, slots=True)
class Ground:
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
        me: str,
        lease: int,
        seen: LeaderSeen,
        board: Board,
        replica: Replica,
        timing: Timing,
        streak: int,
        wake: Callable[[], None],
        heard: float | None = None,
    ) -> None:
        """`heard`: when the leader before was last heard, for a time without one."""
        self._etcd, self._keys, self._me, self._lease = etcd, keys, me, lease
        self._board, self._replica, self._wake = board, replica, wake
        self.revision = seen.revision
        self._name = seen.record.id if seen.record else ""
        self._urls = seen.record.urls if seen.record else ()
        self._stream = FollowStream(seen, self._died, self._beat, self._broke)
        self._suspicion = Suspicion(self._name, timing, time.monotonic(), streak)
        self._look_again = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        """When to look again though nothing is heard; None while that is not waited for."""
        self._suspected: Verdict | None = None
        self._nonce = ""
        self._answer = 0
        self.begun = time.monotonic()
        self.heard = (self.begun if self._name != me else None) if self._name else heard
        """When the leader was last heard; before that, since when it has been watched."""
        self._marks: dict[Phase, float] = {}

    def timeline(self) -> Timeline:
        """How this leader came to be suspected, for the takeover that follows. What was heard after a challenge makes
        that one history; but a leader that is stuck beats all the while, so its story begins with the challenge."""
        stuck = self._suspected is not None and self._suspected.cause == "stuck" and not self._stream.dead
        since = -math.inf if stuck or self.heard is None else self.heard
        marks: dict[Phase, float] = {phase: at for phase, at in self._marks.items() if at >= since}
        if self.heard is not None and not stuck:
            marks["heard"] = self.heard
        return Timeline(marks, self._challengers("challenged" in marks))

    def _challengers(self, me_too: bool) -> tuple[str, ...]:
        """Standbys whose challenges to this leader it has not answered, as far as is known here."""
        answers = {answer.nonce for answer in self._board.answers.items.values()}
        open_ones = {
            name
            for name, item in self._board.challenges.items.items()
            if item.term == self.revision and item.nonce not in answers and name != self._me
        }
        return tuple(sorted(open_ones | {self._me})) if me_too else tuple(sorted(open_ones))

    @property
    def ground(self) -> Ground | None:
        """Why this leader should be replaced; None: it should not."""
        if self._stream.dead:
            why = f"the process of {self._name} died: its follow stream broke and its port refuses"
            return Ground("died", why)
        if self._suspected is None:
            return None
        unanswered = cmp_mod(self._keys.answer(self._me), self._answer)
        return Ground(self._suspected.cause, self._suspected.why, (unanswered,))

    def answered_meanwhile(self) -> None:
        """A takeover found an answer that is newer than our challenge: to this, or, of a slow leader, to one before. In
        either case the term commits; and as that ground can win no more, the leader is to be challenged anew."""
        self._suspicion.proof(time.monotonic())
        self._calm()

    async def run(self) -> None:
        """Watch until cancelled."""
        if not self._name or self._name == self._me:
            return
        unsubscribe = [self._board.answers.listen(self._answered), self._replica.listen(self._entered)]
        try:
            await together(stream=self._stream.run(), suspicion=self._keep_looking())
        finally:
            for stop in unsubscribe:
                stop()

    # --- what is heard ---

    def _died(self) -> None:
        self._marks["suspected"] = time.monotonic()
        self._wake()

    def _broke(self) -> None:
        self._suspicion.broke()
        self._look_again.set()

    def _beat(self, stuck_s: float) -> None:
        self.heard = time.monotonic()
        self._suspicion.beat(self.heard, stuck_s)
        if self._timer is None or self._suspected is not None or self._suspicion.stuck:
            self._look_again.set()
        else:  # all is well, ten times a second: it must not even wake who looks
            self._wait_until(self._suspicion.look(self.heard).wake_at)

    def _answered(self, master: str) -> None:
        answer = self._board.answers.items.get(self._me) if master == self._me else None
        if answer is not None and answer.term == self.revision and answer.nonce == self._nonce:
            self._suspicion.proof(time.monotonic())
            self._calm()

    def _entered(self, entry: Entry) -> None:
        if entry.term == self.revision:
            self._suspicion.proof(time.monotonic())
            self._calm()

    def _calm(self) -> None:
        """Something was heard while there was suspicion, or about to be."""
        if self._nonce:
            self._look_again.set()

    # --- what follows ---

    async def _keep_looking(self) -> None:
        while True:
            self._look_again.clear()
            verdict = self._suspicion.look(time.monotonic())
            if verdict.step is Step.CHALLENGE:
                await self._challenge()
                continue
            suspected = verdict if verdict.step is Step.SUSPECT else None
            if suspected is not None and self._suspected is None:
                log.warning("suspects the leader: %s", suspected.why)
                self._leave_its_host()
                self._suspected = suspected
                self._marks["suspected"] = time.monotonic()
                self._wake()
            self._suspected = suspected
            self._wait_until(verdict.wake_at)
            try:
                await self._look_again.wait()
            finally:
                self._wait_until(math.inf)

    def _wait_until(self, at: float) -> None:
        """Look again then, on the monotonic clock; infinite: only when something is heard."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(at - time.monotonic(), self._look_again.set)

    async def _challenge(self) -> None:
        """Put a challenge, noting which answer there is already: only a newer one can be to this."""
        self._nonce = secrets.token_hex(8)
        self._marks = {"challenged": time.monotonic()}
        challenge = Challenge(term=self.revision, nonce=self._nonce)
        put = op_put(self._keys.challenge(self._me), challenge.encode(), lease=self._lease)
        try:
            result = await self._etcd.txn_by_two([], [put, op_get(self._keys.answer(self._me))], timeout_s=_PUT_S)
        except NodectlError as error:
            log.debug("could not challenge %s: %s", self._name, error)
            self._suspicion.not_challenged(time.monotonic())
            return
        before = result.range(1).first
        self._answer = 0 if before is None else before.mod_revision
        self._marks["taken_by_etcd"] = time.monotonic()
        self._suspicion.challenged(time.monotonic())
        if before is not None and nonce_of(Answer, before) == self._nonce:
            self.answered_meanwhile()  # it came between the two copies of our challenge

    def _leave_its_host(self) -> None:
        """An etcd member on the leader's PC has gone with it, if it was the PC: do not wait for that to show."""
        hosts = {url.split("://", 1)[-1].rsplit(":", 1)[0] for url in self._urls}
        if hosts & {"127.0.0.1", "localhost", "[::1]"}:
            return  # everything runs there: a host's name tells nothing
        for address in self._etcd.settings.endpoints:  # also when it is not in use: it must not be the next one either
            if address.rsplit(":", 1)[0] in hosts:
                self._etcd.leave_address(address)
