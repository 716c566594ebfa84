"""Pure. Which jobs a run with a time limit has, and in which order: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.nightly.jobs import Job


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A job that does not run, and why."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """The jobs to run, in this order, and the others."""

    chosen: tuple[Job, ...]
    left_out: tuple[LeftOut, ...]


def draw(jobs: Sequence[Job], seed: str, limit_s: float) -> Drawn:
    """Go through the jobs in an order that the seed decides, and take each one that still fits into the time left.

    Only the list, the seed and the limit decide, not how fast the machine is.
    """
    order = sorted(jobs, key=lambda job: job.id)
    random.Random(seed).shuffle(order)
    chosen: list[Job] = []
    left_out: list[LeftOut] = []
    left_s = limit_s
    for job in order:
        if job.seconds <= left_s:
            chosen.append(job)
            left_s -= job.seconds
        else:
            left_out.append(LeftOut(job, f"takes {job.seconds} s, and {left_s:g} s of {limit_s:g} s were left"))
    return Drawn(tuple(chosen), tuple(left_out))
