"""A measured figure: median, p99 and worst over many trials, what it is compared with, what is wanted of it. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.harness.goals import Goal

_RATES = ("1/s",)
_JSON_FIELDS = ("n", "median", "p99", "max", "unit", "baseline", "ratio", "worst", "better", "beside", "planned", "how")


@dataclass(frozen=True)
class Figure:
    """`baseline` is the median of the bare operation in the same run; `ratio` is ours to it, in the sense of `unit`.

    p99 and worst are those of the bad side: for rates (1/s) what 99 % of the trials surpass, and the slowest. max is
    the largest value, good or bad. planned: the trials there should have been; fewer are a series that broke off.
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
    beside: str = ""
    goals: tuple[Goal, ...] = ()
    how: str = ""
    values: tuple[float, ...] = ()
    baselines: tuple[float, ...] = ()

    @property
    def better(self) -> Literal["lower", "higher"]:
        return "higher" if self.unit in _RATES else "lower"

    @property
    def goal(self) -> str:
        """For people; "" without one."""
        return ", ".join(goal.text(self.unit) for goal in self.goals)

    @property
    def met(self) -> bool | None:
        """Whether every goal is met; None without one."""
        return all(goal.met(getattr(self, goal.of)) for goal in self.goals) if self.goals else None

    @property
    def is_incomplete(self) -> bool:
        return self.n < self.planned

    def as_json(self) -> dict[str, object]:
        """What other programs need of it: all but the single values."""
        goals = [goal.as_json() for goal in self.goals]
        return {name: getattr(self, name) for name in _JSON_FIELDS} | {
            "goal": self.goal,
            "goals": goals,
            "met": self.met,
        }


def percentile(sorted_values: Sequence[float], part: float) -> float:
    """The nearest-rank percentile: a value that was measured, never one in between."""
    return sorted_values[max(0, math.ceil(part * len(sorted_values)) - 1)]


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    baseline: Sequence[float] | None = None,
    beside: str = "",
    *,
    goals: Sequence[Goal] = (),
    how: str = "",
    planned: int | None = None,
) -> Figure:
    """The figure of these trials. planned: when there should have been more of them. ValueError without any."""
    if not values:
        raise ValueError(f"{name}: nothing was measured")
    ordered = sorted(values, reverse=unit in _RATES)
    median = statistics.median(ordered)
    base = statistics.median(baseline) if baseline else None
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
        ratio=median / base if base is not None and base > 0 else None,
        beside=beside,
        goals=tuple(goals),
        how=how,
        values=tuple(ordered),
        baselines=tuple(sorted(baseline or ())),
    )
