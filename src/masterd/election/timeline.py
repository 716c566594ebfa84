"""Records when each phase of a takeover was reached, so that `nodectl why` can explain its duration. Pure.

Times are monotonic seconds of the masterd that took over. `phases` counts from the first recorded phase, usually the
last heartbeat of the previous leader (`heard`). So the time of `first_answer` is the outage that a client sees, except
for the network delay of its answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TakeoverPhase = Literal[
    "heard", "challenged", "taken_by_etcd", "suspected", "sent", "won", "caught_up", "serving", "found", "first_answer"
]
TAKEOVER_PHASES: tuple[TakeoverPhase, ...] = (
    "heard", "challenged", "taken_by_etcd", "suspected", "sent", "won", "caught_up", "serving", "found",
    "first_answer",
)  # fmt: skip
"""The phases in order. docs/failover.md describes each."""


@dataclass(slots=True)
class Timeline:
    """The times at which one takeover reached its phases, and the standbys that suspected the leader."""

    marks: dict[TakeoverPhase, float] = field(default_factory=dict)
    suspected_by: tuple[str, ...] = ()

    def mark(self, phase: TakeoverPhase, now: float) -> None:
        """Record that `phase` was reached at `now`. Only the first call for a phase counts."""
        self.marks.setdefault(phase, now)

    def phases(self) -> dict[str, float]:
        """Return the seconds from the first recorded phase to each recorded phase, in order."""
        known = [(phase, self.marks[phase]) for phase in TAKEOVER_PHASES if phase in self.marks]
        return {phase: round(at - known[0][1], 6) for phase, at in known}
