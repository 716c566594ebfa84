"""A measured figure: median, p99 and worst over many trials, and what it is compared with. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """`baseline` is the median of the bare operation in the same run; `ratio` is ours to it, in the sense of `unit`."""

    name: str
    n: int
    median: float
    p99: float
    max: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    beside: str = ""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def percentile(sorted_values: Sequence[float], part: float) -> float:
    """The nearest-rank percentile: a value that was measured, never one in between."""
    return sorted_values[max(0, math.ceil(part * len(sorted_values)) - 1)]


def figure(
    name: str, values: Sequence[float], unit: str, baseline: Sequence[float] | None = None, beside: str = ""
) -> Figure:
    """The figure of these trials. ValueError without any."""
    if not values:
        raise ValueError(f"{name}: nothing was measured")
    ordered = sorted(values)
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
    )
