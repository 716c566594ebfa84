"""The calls that concurrent callers made in one trial. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """The calls of one trial. latencies_ms: sorted; all of them, or an even choice."""

    callers: int
    calls: int
    seconds: float
    latencies_ms: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Calls in each second."""
        return self.calls / self.seconds
