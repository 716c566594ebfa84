"""Reads the records of takeovers: selects one, and lists its steps with their times. Pure.

Times in a record are seconds since the new leader received the last heartbeat of the previous one. They come from the
new leader's monotonic clock alone, so the steps add up to the total, and clocks of different PCs are never compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nodestore.errors import Garbage, Invalid, NotFound

_WRITTEN_S = 10.0
"""A leader writes the times of its takeover about two seconds after it, and not later than this."""
_QUICK_S = 3.0
"""A term that lasted less than this may have ended before its times were written."""
_DIGITS_MAX = 18


@dataclass(frozen=True, slots=True)
class TakeoverStep:
    """One step of a takeover. `at_s`: seconds since the first step; `took_s`: since the step before."""

    phase: str
    what: str
    at_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Takeover:
    """One term as recorded by its leader. If there are no steps, `note` says why."""

    epoch: int
    revision: int
    master: str
    since: float
    cause: str
    why: str
    taken_from: str | None = None
    suspected_by: tuple[str, ...] = ()
    ended: str | None = None
    steps: tuple[TakeoverStep, ...] = ()
    note: str = ""

    @property
    def term(self) -> str:
        return f"{self.epoch}.{self.revision}"

    @property
    def whole_s(self) -> float | None:
        """Seconds from the first step to the last; None if no steps were recorded."""
        return self.steps[-1].at_s if self.steps else None

    def data(self) -> dict[str, Any]:
        """The takeover as JSON data."""
        return {
            "term": {"epoch": self.epoch, "revision": self.revision},
            "master": self.master,
            "taken_from": self.taken_from,
            "since": self.since,
            "cause": self.cause,
            "why": self.why,
            "suspected_by": list(self.suspected_by),
            "ended": self.ended,
            "whole_s": self.whole_s,
            "steps": [
                {"phase": step.phase, "what": step.what, "took_s": step.took_s, "at_s": step.at_s}
                for step in self.steps
            ],
            "note": self.note or None,
        }


def takeovers(terms: Sequence[Mapping[str, Any]], now: float) -> list[Takeover]:
    """The takeovers among `terms` (from GET /v1/terms), newest first. `now`: seconds since the Unix epoch."""
    return [found for found in _readable(terms, now) if found.cause != "first"]


def find_takeover(terms: Sequence[Mapping[str, Any]], wanted: str | None, now: float) -> Takeover:
    """Find the takeover that `wanted` names.

    `wanted`: None for the newest takeover; `-1`, `-2`, ... for those before it; or a term as `revision` or
    `epoch.revision`.

    Raises NotFound if there is none, Invalid if `wanted` is malformed, Garbage if the record of the term is unreadable.
    """
    text = wanted or "-0"
    if back := re.fullmatch(r"-(\d{1,9})", text):
        return _nth_before(terms, int(back[1]), now)
    named = re.fullmatch(r"(?:(\d+)\.)?(\d+)", text)
    if named is None or len(text) > 2 * _DIGITS_MAX:
        raise Invalid(
            f"{text[:40]!r} is not a term: give REVISION, EPOCH.REVISION, or -1, -2, ... for earlier takeovers"
        )
    for found in _readable(terms, now):
        if found.revision == int(named[2]) and named[1] in (None, str(found.epoch)):
            return found
    for term in terms:
        if "id" not in term and term.get("revision") == int(named[2]):
            raise Garbage(f"the record of term {text} cannot be read: {term.get('problem')}")
    raise NotFound(f"there is no term {text} in the history: `nodectl why --list` shows the takeovers")


def _nth_before(terms: Sequence[Mapping[str, Any]], count: int, now: float) -> Takeover:
    known = takeovers(terms, now)
    if not known:
        first = next((f": {term['id']} has led since the beginning" for term in terms if "id" in term), "")
        raise NotFound(f"there has been no takeover yet{first}")
    if count >= len(known):
        one = len(known) == 1
        raise NotFound(f"there {'is' if one else 'are'} only {len(known)} takeover{'' if one else 's'} in the history")
    return known[count]


def _readable(terms: Sequence[Mapping[str, Any]], now: float) -> list[Takeover]:
    known = sorted((term for term in terms if "id" in term), key=lambda term: -int(term["revision"]))
    later: list[Mapping[str, Any] | None] = [None, *known]
    earlier: list[Mapping[str, Any] | None] = [*known[1:], None]
    return [_takeover(term, newer, older, now) for term, newer, older in zip(known, later, earlier, strict=False)]


def _takeover(
    term: Mapping[str, Any], newer: Mapping[str, Any] | None, older: Mapping[str, Any] | None, now: float
) -> Takeover:
    cause = str(term.get("cause", ""))
    before = term.get("taken_from") or (str(older["id"]) if older is not None and cause != "first" else None)
    steps = _steps(term.get("phases") or {}, str(term["id"]), before, cause)
    return Takeover(
        epoch=int(term["epoch"]),
        revision=int(term["revision"]),
        master=str(term["id"]),
        since=float(term["since"]),
        cause=cause,
        why=str(term.get("why", "")),
        taken_from=before,
        suspected_by=tuple(term.get("suspected_by") or ()),
        ended=term.get("ended"),
        steps=steps,
        note="" if steps else _note(term, newer, cause, now),
    )


def _note(term: Mapping[str, Any], newer: Mapping[str, Any] | None, cause: str, now: float) -> str:
    if cause == "first":
        return "the first term: there was no leader to take over from"
    if newer is None and now - float(term["since"]) < _WRITTEN_S:
        return "the times are not written yet: a leader writes them about 2 s after its takeover; run this again"
    if newer is not None and 0 <= float(newer["since"]) - float(term["since"]) < _QUICK_S:
        return f"the times were not written: {newer['id']} took over before this leader could write them"
    return "the times were not written: this leader was of an earlier version, or failed to write them"


def _steps(phases: Mapping[str, float], new: str, old: str | None, cause: str) -> tuple[TakeoverStep, ...]:
    """The steps in order of time. An unknown phase, of a later version, is shown by its name."""
    if not phases:
        return ()
    texts = _phase_texts(new, old or "the previous leader", cause)
    marks = sorted(phases.items(), key=lambda mark: mark[1])
    begin = marks[0][1]
    steps = [TakeoverStep(marks[0][0], texts.get(marks[0][0], marks[0][0]), 0.0, 0.0)]
    for (_, before), (phase, at) in pairwise(marks):
        steps.append(TakeoverStep(phase, texts.get(phase, phase), round(at - begin, 6), round(at - before, 6)))
    return tuple(steps)


def _phase_texts(new: str, old: str, cause: str) -> dict[str, str]:
    suspected = {"died": f"the process of {old} has ended", "stuck": f"no answer: {old} is stuck"}
    return {
        "heard": f"last heartbeat from {old}",
        "challenged": f"{new} challenges {old} through etcd",
        "taken_by_etcd": "etcd has stored the challenge",
        "suspected": suspected.get(cause, f"no answer: {new} suspects {old}"),
        "sent": f"{new} sends its takeover to etcd",
        "won": f"etcd makes {new} the leader",
        "caught_up": f"{new} has caught up with the journal",
        "serving": f"{new} serves requests",
        "found": f"first client request reaches {new}",
        "first_answer": f"{new} answers its first request",
    }
