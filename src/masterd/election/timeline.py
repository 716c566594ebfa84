"""When what happened in one takeover, for whoever asks later why it took as long as it did. Pure.

Times are seconds on the monotonic clock of the masterd that took over; they are told from when it last heard the
leader before, so that the phases add up to the whole that a client sees, but for the client's own part.
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


@dataclass(slots=True)
class Timeline:
    """Of one takeover."""

    marks: dict[TakeoverPhase, float] = field(default_factory=dict)
    suspected_by: tuple[str, ...] = ()

    def mark(self, phase: TakeoverPhase, now: float) -> None:
        """The first time counts."""
        self.marks.setdefault(phase, now)

    def phases(self) -> dict[str, float]:
        """Seconds from the first mark to each, in order."""
        known = [(phase, self.marks[phase]) for phase in TAKEOVER_PHASES if phase in self.marks]
        return {phase: round(at - known[0][1], 6) for phase, at in known}
