"""Decides when a standby suspects the leader of one term. Pure: the caller passes times, in monotonic seconds.

Safety does not depend on suspicion, so it may be quick. To keep needless takeovers rare, three conditions must hold:

- the heartbeat stream has been silent for several intervals, or broke, or the leader reports that it cannot commit;
- a challenge, written to etcd when the first condition began to hold, has not been answered through etcd;
- this process itself was not delayed meanwhile.

Any proof that the term can still commit (an answer, a journal entry) ends the suspicion. Otherwise two PCs that cannot
reach each other would depose one another for ever.

    WAIT -- a heartbeat is missed, the stream broke, or the leader cannot commit    --> CHALLENGE
         -- etcd has the challenge, and no proof is received for long enough        --> SUSPECT
    a heartbeat of a leader that can commit, a proof, or a late timer of our own    --> WAIT
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from nodestore.schema.models import Cause
from nodestore.support.backoff import grown_s


@dataclass(frozen=True, kw_only=True)
class ElectionTiming:
    """Timing of the election, in seconds. The leader and all standbys should use the same values."""

    beat_s: float = 0.1
    """Interval of the leader's heartbeats."""
    missed_s: float = 0.16
    """Silence after which the leader is challenged. Longer than beat_s, so that a calm network has no challenges."""
    silence_s: float = 0.26
    """Silence after which a leader that has not answered the challenge is suspected."""
    answer_s: float = 0.08
    """Minimum time that a challenge must be in etcd without an answer: several round trips through etcd."""
    stuck_s: float = 0.5
    """A leader that reports no commit for this long is challenged, although its heartbeats arrive."""
    late_s: float = 0.06
    """If our own timer fires later than this, this process was delayed, and silence proves nothing."""
    connect_s: float = 0.5
    """Time after which the first heartbeat of a new leader counts as due."""
    stagger_s: float = 0.04
    """Delay between the attempts of standbys of adjacent ranks."""


LAN = ElectionTiming()
"""For a private LAN and PCs that are not permanently busy."""
SLOW = ElectionTiming(
    beat_s=0.25, missed_s=0.6, silence_s=1.5, answer_s=0.6, stuck_s=2.0, late_s=0.3, connect_s=2.0, stagger_s=0.15
)
"""For slow disks and busy PCs. Few takeovers are needless, but a takeover takes about two seconds, as long as one that
waits for the lease to expire."""
PROFILES = {"lan": LAN, "slow": SLOW}

STREAK_MAX = 5
"""Limit of the doublings: each takeover of a streak after the first doubles `silence_s` and `answer_s`, at most to 32
times their values."""
STREAK_FORGOTTEN_S = 10.0
"""A term that lasted this long ends a streak."""
_AGAIN_MAX_S = 2.0
"""Longest pause between a proof and the next challenge, unless `missed_s` is longer."""


class SuspicionStep(Enum):
    """What the standby must do now."""

    WAIT = "decide again at `wake_at`, or when something is received"
    CHALLENGE = "write a challenge to etcd"
    SUSPECT = "take over"


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step. wake_at: when to decide again; infinite: only when something is received."""

    step: SuspicionStep
    wake_at: float = math.inf
    cause: Cause = "silent"
    why: str = ""


@dataclass(slots=True)
class Suspicion:
    """The suspicion of one leader in one term. streak: consecutive terms, up to this one, that began on suspicion."""

    leader: str
    timing: ElectionTiming
    begun_at: float
    streak: int = 0
    _heard_at: float = field(init=False)
    _stuck_s: float = 0.0
    _wake_at: float = math.inf
    _challenge_open: bool = False
    """Whether a challenge is open: requested by `decide`, and not answered, failed or made needless by a heartbeat."""
    _stored_at: float | None = None
    """When etcd stored the open challenge; None if that is not known yet."""
    _next_challenge_at: float = -math.inf
    """Time before which no new challenge is sent."""
    _proofs: int = 0
    """Proofs in reply to challenges since the last heartbeat of a leader that can commit."""
    _broken: bool = False
    """Whether the heartbeat stream broke. Reset by a heartbeat, by a proof, and after a delay of this process."""

    def __post_init__(self) -> None:
        self._heard_at = self.begun_at + self.timing.connect_s

    @property
    def heard_at(self) -> float:
        """When the last heartbeat was received; before the first one, when it is due."""
        return self._heard_at

    @property
    def stuck(self) -> bool:
        """Whether the last heartbeat reported that the leader could not commit for at least `stuck_s`."""
        return self._stuck_s >= self.timing.stuck_s

    # --- inputs ---

    def beat(self, now: float, stuck_s: float = 0.0) -> None:
        """Record a heartbeat. stuck_s: for how long the leader has not been able to commit."""
        self._heard_at, self._stuck_s, self._broken = max(self._heard_at, now), stuck_s, False
        if not self.stuck:
            self._proofs = 0
            self._close_challenge()

    def broke(self) -> None:
        """Record that the heartbeat stream broke, which does not show whether the leader's process died.

        No further heartbeat can arrive, so the leader is challenged at once.
        """
        self._broken = True

    def proof(self, now: float) -> None:
        """Record a proof that the term can still commit: an answer to a challenge, or a journal entry.

        A broken connection between two PCs alone is no reason for a takeover. So the next challenge is delayed, longer
        after each proof.
        """
        if self._challenge_open:
            self._proofs += 1
            missed_s = self.timing.missed_s
            self._next_challenge_at = now + grown_s(missed_s, max(_AGAIN_MAX_S, missed_s), self._proofs)
            self._broken = False
        self._close_challenge()

    def challenged(self, now: float) -> None:
        """Record that etcd has stored our challenge. So our own connection to etcd works, and an answer can arrive."""
        if self._challenge_open:
            self._stored_at = now

    def not_challenged(self, now: float) -> None:
        """Record that the challenge could not be written; try again later. Our connection to etcd may be the cause."""
        self._next_challenge_at = now + self.timing.missed_s
        self._close_challenge()

    def _close_challenge(self) -> None:
        self._challenge_open, self._stored_at = False, None

    # --- decision ---

    def decide(self, now: float) -> Decision:
        """Return the next step. The caller calls this at the last `wake_at`, and whenever something was received."""
        late_s, self._wake_at = now - self._wake_at, math.inf
        if late_s > self.timing.late_s:
            # Heartbeats and answers may have arrived during the delay and wait unread: start again from now.
            self._heard_at, self._broken = max(self._heard_at, now), False
            self._close_challenge()
        decision = self._decide(now)
        self._wake_at = decision.wake_at
        return decision

    def _decide(self, now: float) -> Decision:
        timing, quiet_s = self.timing, now - self._heard_at
        stuck = self.stuck
        at_once = stuck or self._broken
        if now < self._heard_at + timing.missed_s and not at_once:
            return Decision(SuspicionStep.WAIT, self._heard_at + timing.missed_s)
        if not self._challenge_open:
            if now < self._next_challenge_at:
                return Decision(SuspicionStep.WAIT, self._next_challenge_at)
            self._challenge_open = True
            return Decision(SuspicionStep.CHALLENGE)
        if self._stored_at is None:
            return Decision(SuspicionStep.WAIT)  # until `challenged` or `not_challenged` is called
        due = self._stored_at + timing.answer_s * self._patience
        if not at_once:
            due = max(due, self._heard_at + timing.silence_s * self._patience)
        if now < due:
            return Decision(SuspicionStep.WAIT, due)
        unanswered = f"a challenge through etcd was not answered for {now - self._stored_at:.2f} s"
        if stuck:
            stuck_s = f"{self._stuck_s:.1f} s"
            why = f"{self.leader} reports that it has not been able to commit for {stuck_s}, and {unanswered}"
            return Decision(SuspicionStep.SUSPECT, cause="stuck", why=why)
        if self._broken:
            return Decision(SuspicionStep.SUSPECT, why=f"the follow stream of {self.leader} broke, and {unanswered}")
        return Decision(
            SuspicionStep.SUSPECT, why=f"{self.leader} has been silent for {quiet_s:.2f} s, and {unanswered}"
        )

    @property
    def _patience(self) -> float:
        return 2.0 ** min(max(0, self.streak - 1), STREAK_MAX)


def streak_after(cause: Cause, streak: int, held_s: float) -> int:
    """Return the streak of a new term that begins because of `cause`.

    streak: that of the previous term. held_s: for how many seconds this process has observed the previous term.
    """
    if cause not in ("silent", "stuck"):
        return 0
    return 1 if held_s >= STREAK_FORGOTTEN_S else streak + 1
