"""A measured figure: median, p99 and worst of many trials, its baseline and its goals. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.harness.goals import Goal

_RATES = ("1/s",)
_JSON_FIELDS = ("n", "median", "p99", "max", "unit", "baseline", "ratio", "worst", "better", "planned", "how")


@dataclass(frozen=True)
class Figure:
    """The statistics of one series of trials, in `unit`.

    baseline: the median of the bare operation in the same run. ratio: median / baseline, or the median of the ratios
    of the trials. p99, worst: the 99th percentile and the extreme on the bad side; for rates (1/s) the value that 99 %
    of the trials exceed, and the slowest trial. max: the largest value. planned: the intended number of trials; if `n`
    is lower, the series was broken off. how: how it was measured, for the page.
    """

    name: str
    n: int
    median: float
    p99: float
    max: float
    worst: float
    unit: str
    planned: int
    baseline: float | None = None
    ratio: float | None = None
    baseline_name: str = ""
    goals: tuple[Goal, ...] = ()
    how: str = ""
    values: tuple[float, ...] = ()
    baselines: tuple[float, ...] = ()

    @property
    def better(self) -> Literal["lower", "higher"]:
        return "higher" if self.unit in _RATES else "lower"

    @property
    def goal(self) -> str:
        """The goals in words; "" without goals."""
        return ", ".join(goal.text(self.unit) for goal in self.goals)

    @property
    def met(self) -> bool | None:
        """Whether all goals are met; None without goals."""
        return all(goal.met(getattr(self, goal.of)) for goal in self.goals) if self.goals else None

    @property
    def is_incomplete(self) -> bool:
        return self.n < self.planned

    def as_json(self) -> dict[str, object]:
        """Return the figure as JSON data, without the single values."""
        goals = [goal.as_json() for goal in self.goals]
        return {name: getattr(self, name) for name in _JSON_FIELDS} | {
            "beside": self.baseline_name,
            "goal": self.goal,
            "goals": goals,
            "met": self.met,
        }


def percentile(sorted_values: Sequence[float], part: float) -> float:
    """Return the nearest-rank percentile, which is one of the values. `part`: 0 to 1."""
    return sorted_values[max(0, math.ceil(part * len(sorted_values)) - 1)]


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    baseline: Sequence[float] | None = None,
    baseline_name: str = "",
    *,
    goals: Sequence[Goal] = (),
    how: str = "",
    planned: int | None = None,
    ratios: Sequence[float] = (),
) -> Figure:
    """Compute the figure of these trials. Raises ValueError without trials.

    planned: the intended number of trials. ratios: for trials that were each compared with bare operations right
    before and after: those ratios, whose median is the figure's.
    """
    if not values:
        raise ValueError(f"{name}: nothing was measured")
    ordered = sorted(values, reverse=unit in _RATES)
    median = statistics.median(ordered)
    base = statistics.median(baseline) if baseline else None
    of_medians = median / base if base is not None and base > 0 else None
    return Figure(
        name=name,
        n=len(ordered),
        median=median,
        p99=percentile(ordered, 0.99),
        max=max(ordered),
        worst=ordered[-1],
        unit=unit,
        planned=len(ordered) if planned is None else planned,
        baseline=base,
        ratio=statistics.median(ratios) if ratios else of_medians,
        baseline_name=baseline_name,
        goals=tuple(goals),
        how=how,
        values=tuple(ordered),
        baselines=tuple(sorted(baseline or ())),
    )
