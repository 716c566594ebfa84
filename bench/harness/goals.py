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

    A bound of `ratio` is relative to the bare operation. A bound of `worst` holds for each single trial. aim: a
    stricter bound, which is shown and not judged.
    """

    of: Of
    relation: Relation
    bound: float
    aim: float | None = None

    def met(self, found: float | None) -> bool:
        """Return whether the number is within the bound; False if it could not be computed."""
        return found is not None and _HOLDS[self.relation](found, self.bound)

    def text(self, unit: str) -> str:
        """Return the goal in words: `p99 at most 100 ms`; for `worst` without its name: `at most 55 MB`."""
        if self.of == "ratio":
            return f"{self.relation} {self.bound:g}x" + ("" if self.aim is None else f" (aim: {self.aim:g}x)")
        which = "" if self.of == "worst" else f"{self.of} "
        aim = "" if self.aim is None else f" (aim: {self.aim:,.10g})"
        return f"{which}{self.relation} {self.bound:,.10g} {unit}".rstrip() + aim

    def as_json(self) -> dict[str, object]:
        aim = {} if self.aim is None else {"aim": self.aim}
        return {"of": self.of, "relation": self.relation, "bound": self.bound, **aim}


def within(median: float, p99: float) -> tuple[Goal, Goal]:
    """Return the goals of a duration: upper bounds of its median and its p99."""
    return Goal("median", "at most", median), Goal("p99", "at most", p99)


ONE_COMMAND = Goal("ratio", "at most", 2.0, aim=1.7)
"""The time of one command, relative to one frozen put."""
RATE: Mapping[int, Goal] = {
    4: Goal("ratio", "at least", 0.9, aim=1.1),
    16: Goal("ratio", "at least", 1.2, aim=1.5),
    64: Goal("ratio", "at least", 2.2, aim=2.6),
}
"""Commands a second, relative to frozen puts with as many in flight, by the number of callers."""
CPU_OF_A_COMMAND = Goal("median", "at most", 140.0, aim=115.0)
"""All processes together, in us, with 64 callers."""
KILLED_FRESH = within(25.0, 100.0)
KILLED_LATER = within(35.0, 100.0)
PAUSED = within(350.0, 700.0)
HANDED_OVER = within(18.0, 60.0)
NO_SLOWER = Goal("ratio", "at most", 1.1)
"""Than recorded; CPU times repeat within 10 %."""
NO_ERROR = Goal("worst", "at most", 0.0)
MEMORY_MB: Mapping[str, float] = {"noded": 55.0, "masterd": 90.0, "etcd": 120.0}
"""After 120,000 commands, in each process."""
