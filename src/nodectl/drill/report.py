"""The report of a drill: the takeover as the client saw it, and each promise with its measurement. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nodectl.reports.takeover import Takeover, TakeoverStep
from nodectl.workload.verdicts import (
    JournalLine,
    Promise,
    Repeat,
    find_duplicates,
    find_journal_faults,
    find_lost,
    find_unrecognised,
)


@dataclass(slots=True)
class ClientTimes:
    """Moments of the takeover at the client, in seconds on its monotonic clock.

    `found_at`: when the client learned of the new leader; None if it never did.
    """

    last_answer_before_at: float
    injected_at: float
    found_at: float | None
    first_answer_after_at: float

    @property
    def gap_s(self) -> float:
        """Seconds from the last answer of the old term to the first answer of a later one."""
        return self.first_answer_after_at - self.last_answer_before_at


@dataclass(slots=True)
class Report:
    """The result of one drill. `afterwards`: the state in which the old leader was left."""

    how: str
    description: str
    old_leader: str
    takeover: Takeover
    client_times: ClientTimes
    promises: list[Promise] = field(default_factory=list)
    afterwards: str = ""

    @property
    def held(self) -> bool:
        return all(promise.held for promise in self.promises)

    @property
    def steps(self) -> tuple[TakeoverStep, ...]:
        """The takeover's steps at the client, in order of time."""
        # The first answer may come before the client finds the new leader: a standby proxies a waiting request to it.
        times, new = self.client_times, self.takeover.master
        marks = [
            (times.last_answer_before_at, "last_answer_before", "the last answer before"),
            (times.injected_at, "struck", f"{self.old_leader} {self.description}"),
            (times.first_answer_after_at, "first_answer_after", "the first answer after"),
        ]
        if times.found_at is not None:
            marks.append((times.found_at, "found", f"the client has found {new}"))
        marks.sort(key=lambda mark: mark[0])
        begin = marks[0][0]
        took = [0.0, *(after[0] - before[0] for before, after in pairwise(marks))]
        return tuple(
            TakeoverStep(phase, what, round(at - begin, 6), round(t, 6))
            for (at, phase, what), t in zip(marks, took, strict=True)
        )

    def data(self) -> dict[str, Any]:
        """Return the report as JSON data (`nodectl drill --json`)."""
        return {
            "how": self.how,
            "leader": self.old_leader,
            "takeover": self.takeover.data(),
            "client": {
                "gap_s": round(self.client_times.gap_s, 6),
                "steps": [{"phase": step.phase, "what": step.what, "took_s": step.took_s, "at_s": step.at_s}
                          for step in self.steps],
            },
            "promises": [
                {"promise": item.text, "measured": item.measured, "held": item.held, "faults": item.faults}
                for item in self.promises
            ],
            "held": self.held,
            "afterwards": self.afterwards,
        }  # fmt: skip


def judge_promises(
    acknowledged: dict[str, int], failed: Sequence[str], repeats: Sequence[Repeat], lines: Sequence[JournalLine],
    found: Takeover, old: str, gap_s: float,
) -> list[Promise]:  # fmt: skip
    """Check each promise against the measurements. The text of a measurement is true also if the promise is broken.

    `acknowledged`: index by command id. `failed`: commands without a result, each with the reason. `lines`: the
    complete history since before the first probe command.
    """
    lost, doubled, unknown = find_lost(acknowledged, lines), find_duplicates(lines), find_unrecognised(repeats)
    kept = Promise("No acknowledged command is lost")
    there = len(acknowledged.items() & {(line.id, line.index) for line in lines})
    kept.judge(f"{len(acknowledged)} acknowledged, {_all(there, len(acknowledged))} in the history", lost)
    once = Promise("No command takes effect twice")
    recognised = sum(item.repeated and item.index == item.first for item in repeats)
    repeated = len(lines) - len({line.id for line in lines})
    once.judge(
        f"{recognised} of {len(repeats)} repeats recognised; of {len(lines)} commands {repeated or 'none'} twice",
        doubled, unknown,
    )  # fmt: skip
    fenced = Promise("A deposed master changes nothing")
    disorder = find_journal_faults(lines)
    order = "not in order" if disorder else "no gap, terms in order"
    fenced.judge(f"{len(lines)} commands in one history, {order}", disorder)
    continued = Promise("Clients continue by themselves")
    count = len(failed) or "no"
    commands = "command" if len(failed) < 2 else "commands"
    continued.judge(f"{gap_s * 1e3:.0f} ms without an answer, {count} {commands} failed", failed[:3])
    recorded = Promise("Anyone can see what happened")
    wrong_master = (
        [] if found.taken_from == old else [f"the record says that {found.taken_from} was replaced, not {old}"]
    )
    no_times = [] if found.steps else [found.note]
    recorded.judge(f"{found.cause}, in {len(found.steps)} steps: nodectl why {found.term}", wrong_master, no_times)
    return [kept, once, fenced, continued, recorded]


def _all(count: int, of: int) -> str:
    return "all" if count == of else f"{count} of them"
