"""What a masterd publishes about its own condition in its candidacy, so that other masterds can report it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from masterd.application.identity import ApplicationIdentity
from nodestore.schema.models import RehearsalReport

_TEXT_MAX = 300
_AGE_STEP_S = 5.0


@dataclass(frozen=True, slots=True)
class SelfReport:
    """The condition of one masterd. age_s: the age of its state. See `Candidate` for the rest."""

    identity: ApplicationIdentity
    age_s: float
    problem: str | None
    unfit: str | None
    rehearsal: RehearsalReport | None

    def fields(self) -> dict[str, Any]:
        """The fields of a Candidate. Texts are cut, and the age is rounded, so that a condition that does not change
        causes no writes."""
        return {
            "application": self.identity.name, "application_version": self.identity.version,
            "commands_hash": self.identity.commands_hash, "age_s": self.age_s // _AGE_STEP_S * _AGE_STEP_S,
            "problem": _cut(self.problem), "unfit": _cut(self.unfit), "rehearsal": self.rehearsal,
        }  # fmt: skip


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _TEXT_MAX else f"{text[: _TEXT_MAX - 1]}…"
