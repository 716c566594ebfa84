"""What was measured with one number of callers after another: rates, latencies, and CPU time by process. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.harness.figures import percentile
from bench.harness.load import Load

NODED = "noded"


@dataclass(frozen=True)
class Trial:
    """One trial of commands, between two trials of puts.

    cpu_us: CPU time of a command by kind of process, without what the process uses at rest. begun, ended: on the
    monotonic clock. put_rate: the mean rate of the frozen puts right before and after. slowdown: how much more CPU time
    the same work took then than undisturbed.
    """

    commands: Load
    cpu_us: Mapping[str, float]
    begun: float
    ended: float
    put_rate: float = 0.0
    slowdown: float = 1.0

    @property
    def ratio(self) -> float:
        return self.commands.rate / self.put_rate


@dataclass(frozen=True)
class Point:
    """All trials with one number of callers. puts: the frozen ones. session_puts: puts through our session."""

    callers: int
    trials: Sequence[Trial]
    puts: Sequence[Load]
    session_puts: Sequence[Load]

    @property
    def rate(self) -> float:
        return statistics.median(trial.commands.rate for trial in self.trials)

    @property
    def put_rate(self) -> float:
        return statistics.median(load.rate for load in self.puts)

    @property
    def session_put_rate(self) -> float:
        return statistics.median(load.rate for load in self.session_puts)

    @property
    def ratio(self) -> float:
        """Commands a second relative to the frozen puts right before and after."""
        return statistics.median(trial.ratio for trial in self.trials)

    @property
    def slowdown(self) -> float:
        return statistics.median(trial.slowdown for trial in self.trials)

    def latency_ms(self, part: float) -> float:
        """Return the latency that this part of all commands does not exceed."""
        return percentile(sorted(ms for trial in self.trials for ms in trial.commands.latencies_ms), part)

    def put_latency_ms(self, part: float) -> float:
        return percentile(sorted(ms for load in self.puts for ms in load.latencies_ms), part)

    def cpu_us(self, kind: str) -> float:
        """Return the CPU time of a command in one kind of process, as on undisturbed cores."""
        return statistics.median(trial.cpu_us[kind] / trial.slowdown for trial in self.trials)

    @property
    def kinds(self) -> list[str]:
        """The kinds of process on a command's path. noded has a share of its own."""
        return [kind for kind in self.trials[0].cpu_us if kind != NODED]

    @property
    def totals_us(self) -> list[float]:
        """CPU time of a command in all processes on its path, by trial, as on undisturbed cores."""
        return [sum(trial.cpu_us[kind] for kind in self.kinds) / trial.slowdown for trial in self.trials]

    @property
    def total_us(self) -> float:
        return statistics.median(self.totals_us)

    def as_json(self) -> dict[str, object]:
        return {
            "commands_a_second": self.rate,
            "puts_a_second": self.put_rate,
            "session_puts_a_second": self.session_put_rate,
            "ratio": self.ratio,
            "p50_ms": self.latency_ms(0.5),
            "p99_ms": self.latency_ms(0.99),
            "put_p50_ms": self.put_latency_ms(0.5),
            "put_p99_ms": self.put_latency_ms(0.99),
            "cpu_us": {kind: self.cpu_us(kind) for kind in self.trials[0].cpu_us},
            "cpu_together_us": self.total_us,
            "slowdown": self.slowdown,
        }
