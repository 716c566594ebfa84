"""The calls that concurrent callers made in one trial. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bench.harness.figures import percentile


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

    @property
    def p50_ms(self) -> float:
        return percentile(self.latencies_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        return percentile(self.latencies_ms, 0.99)
