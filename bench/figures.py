"""A measured figure: median, p99 and worst over many trials, and what it is compared with. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Figure:
    """`baseline` is the median of the bare operation in the same run; `ratio` is ours to it, in the sense of `unit`.

    p99 and max are those of the bad side: for rates (1/s) what 99 % of the trials surpass, and the slowest.
    """

    name: str
    n: int
    median: float
    p99: float
    max: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    beside: str = ""
    goal: str = ""
    how: str = ""
    values: tuple[float, ...] = ()
    baselines: tuple[float, ...] = ()

    def as_json(self) -> dict[str, object]:
        """What other programs need of it: all but the single values."""
        told = (
            "n", "median", "p99", "max", "unit", "baseline", "ratio", "beside", "goal", "how",
        )  # fmt: skip
        return {name: getattr(self, name) for name in told}

    def with_goal(self, goal: str) -> Figure:
        return replace(self, goal=goal)


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
    goal: str = "",
    how: str = "",
) -> Figure:
    """The figure of these trials. ValueError without any."""
    if not values:
        raise ValueError(f"{name}: nothing was measured")
    ordered = sorted(values, reverse=unit == "1/s")
    median = statistics.median(ordered)
    base = statistics.median(baseline) if baseline else None
    return Figure(
        name=name,
        n=len(ordered),
        median=median,
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
        unit=unit,
        baseline=base,
        ratio=median / base if base else None,
        beside=beside,
        goal=goal,
        how=how,
        values=tuple(ordered),
        baselines=tuple(sorted(baseline or ())),
    )
