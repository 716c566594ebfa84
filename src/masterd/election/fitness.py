"""What the election needs to know about the fitness of this masterd to lead. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from nodestore.schema.models import Candidate

UNFIT_WAIT_S = 2.0
"""An unfit masterd takes over only if no fitter one has led for this long. Fitness is a hint: a wrong one delays a
takeover, and never prevents it."""


class Fitness(Protocol):
    """The fitness of this masterd."""

    @property
    def barred(self) -> str | None:
        """Why this masterd must not lead, not even as the only one; None if it may."""

    @property
    def unfit(self) -> str | None:
        """Why every other candidate should lead rather than this one; None if it is fit. Includes `barred`."""


@dataclass(frozen=True, slots=True)
class FixedFitness:
    """A fitness that does not change. By default: fit."""

    barred: str | None = None
    unfit: str | None = None


def has_fitter(own_id: str, excluded_id: str | None, candidates: Iterable[Candidate]) -> bool:
    """Whether a candidate other than these two is fit. excluded_id: the leader that is replaced."""
    return any(other.unfit is None and other.id not in (own_id, excluded_id) for other in candidates)
