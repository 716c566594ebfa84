"""When a standby suspects the leader of one term. Pure: times are handed in, seconds on the monotonic clock.

A suspicion is never needed for safety, so it may be quick; what keeps it from being a nuisance is that three things
must come together: the follow stream has been silent for a few beats; a challenge, put through etcd at the first
missed beat, has not been answered through etcd; and this process itself has not been held up meanwhile. Any sign that
the term still commits (an answer, an entry) ends it: two PCs that do not see each other must not take turns.

    calm -- a beat is missed, or the leader says it cannot commit --> CHALLENGE
         -- etcd has the challenge, time passes, nothing is heard --> SUSPECT
    a beat, an answer, an entry of the term, a late timer of our own --> calm
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from nodestore.schema.models import Cause
from nodestore.support.backoff import grown_s


@dataclass(frozen=True)
class ElectionTiming:
    """How quick the masters are. All in seconds. Leader and standbys should have the same."""

    beat_s: float = 0.1
    """The leader's heartbeats are so far apart."""
    missed_s: float = 0.16
    """Nothing heard for so long: the leader is challenged. More than a beat, so that a calm network has none."""
    silence_s: float = 0.26
    """Nothing heard for so long, and the challenge unanswered: it is suspected."""
    answer_s: float = 0.08
    """For so long at least a challenge that etcd has must have been unanswered: several round trips through etcd."""
    stuck_s: float = 0.5
    """The leader says that it has not been able to commit for so long: it is challenged although it beats."""
    late_s: float = 0.06
    """Our own timer was later than this: we were held up, and what we did not hear proves nothing."""
    connect_s: float = 0.5
    """After a new leader was seen, until its first beat is missed."""
    stagger_s: float = 0.04
    """Between the attempts of standbys, by rank."""


LAN = ElectionTiming()
"""A private LAN and PCs that are not busy all the time."""
SLOW = ElectionTiming(
    beat_s=0.25, missed_s=0.6, silence_s=1.5, answer_s=0.6, stuck_s=2.0, late_s=0.3, connect_s=2.0, stagger_s=0.15
)
"""Slow disks, busy PCs: a takeover takes some two seconds, as with the lease alone, and hardly ever is needless."""
PROFILES = {"lan": LAN, "slow": SLOW}

STREAK_MAX = 5
"""Patience doubles with each takeover on suspicion in a row, from the second on, up to 32 times the usual."""
STREAK_FORGOTTEN_S = 10.0
"""A term that held for so long ends a streak."""
_AGAIN_MAX_S = 2.0


class SuspicionStep(Enum):
    """What to do now."""

    WAIT = "look again at `wake_at`, or when something is heard"
    CHALLENGE = "put a challenge through etcd"
    SUSPECT = "take over"


@dataclass(frozen=True, slots=True)
class Decision:
    """`wake_at`: when to look again; infinite: only when something is heard."""

    step: SuspicionStep
    wake_at: float = math.inf
    cause: Cause = "silent"
    why: str = ""


@dataclass(slots=True)
class Suspicion:
    """Of one term. `streak`: how many terms in a row, up to this one, began on mere suspicion."""

    leader: str
    timing: ElectionTiming
    begun_at: float
    streak: int = 0
    _heard: float = field(init=False)
    _stuck_s: float = 0.0
    _wake_at: float = math.inf
    _asked: bool = False
    _has_it: float | None = None
    _again_at: float = -math.inf
    _proofs: int = 0
    _broken: bool = False

    def __post_init__(self) -> None:
        self._heard = self.begun_at + self.timing.connect_s

    @property
    def heard_at(self) -> float:
        """When the leader was last heard, or, before that, should have been."""
        return self._heard

    @property
    def stuck(self) -> bool:
        """Whether the leader said, when it was last heard, that it has not been able to commit for too long."""
        return self._stuck_s >= self.timing.stuck_s

    # --- what is heard ---

    def beat(self, now: float, stuck_s: float = 0.0) -> None:
        """The leader's heartbeat; it says for how long it has not been able to commit."""
        self._heard, self._stuck_s, self._broken = max(self._heard, now), stuck_s, False
        if not self.stuck:
            self._proofs = 0
            self._forget()

    def broke(self) -> None:
        """Its follow stream broke, which a process that dies does, and is not known to be dead: there is no beat to
        wait for any more, so it is challenged at once."""
        self._broken = True

    def proof(self, now: float) -> None:
        """The term still commits: an answer to a challenge, or an entry. Silence between the two of us alone is no
        reason to take over, so the next challenge waits, longer each time."""
        if self._asked:
            self._proofs += 1
            missed_s = self.timing.missed_s
            self._again_at = now + grown_s(missed_s, max(_AGAIN_MAX_S, missed_s), self._proofs)
            self._broken = False
        self._forget()

    def challenged(self, now: float) -> None:
        """etcd has our challenge: it answers us, so the silence is not ours."""
        if self._asked:
            self._has_it = now

    def not_challenged(self, now: float) -> None:
        """It could not be put: then we have no better a link to etcd than the leader. Tried again."""
        self._again_at = now + self.timing.missed_s
        self._forget()

    def _forget(self) -> None:
        self._asked, self._has_it = False, None

    # --- what follows ---

    def decide(self, now: float) -> Decision:
        """What to do. To be called at the `wake_at` given last, and whenever something was heard."""
        late_s, self._wake_at = now - self._wake_at, math.inf
        if late_s > self.timing.late_s:
            self._heard, self._broken = max(self._heard, now), False  # we slept: it may have beaten, and answered
            self._forget()
        verdict = self._decide(now)
        self._wake_at = verdict.wake_at
        return verdict

    def _decide(self, now: float) -> Decision:
        timing, quiet_s = self.timing, now - self._heard
        stuck = self.stuck
        at_once = stuck or self._broken
        if now < self._heard + timing.missed_s and not at_once:
            return Decision(SuspicionStep.WAIT, self._heard + timing.missed_s)
        if not self._asked:
            if now < self._again_at:
                return Decision(SuspicionStep.WAIT, self._again_at)
            self._asked = True
            return Decision(SuspicionStep.CHALLENGE)
        if self._has_it is None:
            return Decision(SuspicionStep.WAIT)  # until it is put, or cannot be
        due = self._has_it + timing.answer_s * self._patience
        if not at_once:
            due = max(due, self._heard + timing.silence_s * self._patience)
        if now < due:
            return Decision(SuspicionStep.WAIT, due)
        unanswered = f"a challenge through etcd was not answered for {now - self._has_it:.2f} s"
        if stuck:
            why = f"{self.leader} says that it has not been able to commit for {self._stuck_s:.1f} s, and {unanswered}"
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
    """The streak of a new term: how the one before ended, its own streak, and for how long it was seen to hold."""
    if cause not in ("silent", "stuck"):
        return 0
    return 1 if held_s >= STREAK_FORGOTTEN_S else streak + 1
