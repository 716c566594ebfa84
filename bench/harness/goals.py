"""Goals of a figure, as data: a bound for one of its numbers. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Of = Literal["median", "p99", "worst", "ratio"]
Relation = Literal["at most", "under", "at least"]

_HOLDS: Mapping[Relation, Callable[[float, float], bool]] = {
    "at most": operator.le, "under": operator.lt, "at least": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """A bound for one number of a figure, in the figure's unit.

    A bound of `ratio` is relative to the bare operation. A bound of `worst` holds for each single trial.
    """

    of: Of
    relation: Relation
    bound: float

    def met(self, found: float | None) -> bool:
        """Return whether the number is within the bound; False if it could not be computed."""
        return found is not None and _HOLDS[self.relation](found, self.bound)

    def text(self, unit: str) -> str:
        """Return the goal in words: `p99 at most 100 ms`; for `worst` without its name: `at most 55 MB`."""
        if self.of == "ratio":
            return f"{self.relation} {self.bound:g}x"
        which = "" if self.of == "worst" else f"{self.of} "
        return f"{which}{self.relation} {self.bound:,.10g} {unit}".rstrip()

    def as_json(self) -> dict[str, object]:
        return {"of": self.of, "relation": self.relation, "bound": self.bound}


def within(median: float, p99: float) -> tuple[Goal, Goal]:
    """Return the goals of a duration: upper bounds of its median and its p99."""
    return Goal("median", "at most", median), Goal("p99", "at most", p99)
