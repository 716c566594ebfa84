"""The one table from what went wrong to what the user reads and which code the program ends with. See docs/cli.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from nodestore.errors import (
    Conflict,
    Denied,
    Invalid,
    NodectlError,
    NoSpace,
    NotFound,
    OutcomeUnknown,
    TimedOut,
    TooOld,
    Unavailable,
)


class ExitCode(IntEnum):
    """Scripts rely on these: a number is never given another meaning."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    DENIED = 6
    TIMED_OUT = 7
    OUTCOME_UNKNOWN = 8
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is said and how the program ends."""

    code: int
    message: str
    hint: str = ""


_TABLE: tuple[tuple[type[NodectlError], ExitCode, str], ...] = (
    (TooOld, ExitCode.CONFLICT, "look at the present state with `nodectl history`, then decide"),
    (Conflict, ExitCode.CONFLICT, "look again, then repeat the command"),
    (Invalid, ExitCode.USAGE, ""),
    (NotFound, ExitCode.NOT_FOUND, ""),
    (Denied, ExitCode.DENIED, "check --user, --password-file and the certificates"),
    (TimedOut, ExitCode.TIMED_OUT, "what was asked for stands; `nodectl status` shows what is missing"),
    (OutcomeUnknown, ExitCode.OUTCOME_UNKNOWN, "look with `nodectl history` whether it took effect"),
    (NoSpace, ExitCode.UNAVAILABLE, "`nodectl status` says more; see docs/recovery.md"),
    (Unavailable, ExitCode.UNAVAILABLE, "is a masterd running, and is --endpoints right?"),
    (NodectlError, ExitCode.FAILED, ""),
)
"""The first class that fits counts."""


def explain(error: BaseException) -> Explanation:
    """What to tell the user of `error`."""
    if isinstance(error, NodectlError):
        for kind, code, hint in _TABLE:
            if isinstance(error, kind):
                return Explanation(code, error.message or kind.__name__, hint)
    if isinstance(error, KeyboardInterrupt):
        return Explanation(ExitCode.INTERRUPTED, "")
    if isinstance(error, OSError):
        at = f"{error.filename}: " if error.filename else ""
        return Explanation(ExitCode.FAILED, f"{at}{error.strerror or error}")
    text = f"internal error: {type(error).__name__}: {error}"
    return Explanation(ExitCode.FAILED, text, "NODECTL_DEBUG=1 shows where; please report it")
