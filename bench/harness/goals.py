"""What is wanted of a figure, as data: which of its numbers must be how large. Pure."""

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
    """`bound` is in the unit of the figure; for `ratio` it is ours to the bare operation. `worst` is a goal for each
    single trial."""

    of: Of
    relation: Relation
    bound: float

    def met(self, found: float | None) -> bool:
        """Whether the number is as wanted. What could not be computed is not."""
        return found is not None and _HOLDS[self.relation](found, self.bound)

    def text(self, unit: str) -> str:
        """For people: `p99 at most 100 ms`; of each trial without saying so: `at most 55 MB`."""
        if self.of == "ratio":
            return f"{self.relation} {self.bound:g}x"
        which = "" if self.of == "worst" else f"{self.of} "
        return f"{which}{self.relation} {self.bound:,.10g} {unit}".rstrip()

    def as_json(self) -> dict[str, object]:
        return {"of": self.of, "relation": self.relation, "bound": self.bound}


def within(median: float, p99: float) -> tuple[Goal, Goal]:
    """Of what takes its time: at most so long in the middle, and at most so long in 99 of 100 trials."""
    return Goal("median", "at most", median), Goal("p99", "at most", p99)
