"""The table from errors to exit codes and hints. docs/cli.md documents the codes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import IntEnum

from nodestore.errors import (
    Conflict,
    Denied,
    Forbidden,
    IdClosed,
    IdReused,
    Invalid,
    NodectlError,
    NodeUnavailable,
    NoSpace,
    NotFound,
    OutcomeUnknown,
    ResultForgotten,
    TimedOut,
    TooOld,
    Unauthenticated,
    Unavailable,
)


class ExitCode(IntEnum):
    """Exit codes of `nodectl`. Scripts rely on them: a number never changes its meaning."""

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
    """An error as the operator sees it: exit code, message and hint."""

    code: int
    message: str
    hint: str = ""


_TABLE: tuple[tuple[type[NodectlError], ExitCode, str], ...] = (
    (TooOld, ExitCode.CONFLICT, "check with `nodectl history` what has happened since, then decide"),
    (IdReused, ExitCode.CONFLICT, "send the command with an id of its own, or without --command-id"),
    (IdClosed, ExitCode.CONFLICT, "send the command again without --command-id, or with a new id"),
    (ResultForgotten, ExitCode.FAILED, "the command is done; `nodectl history` shows what is kept of it"),
    (Conflict, ExitCode.CONFLICT, "check the current state, then repeat the command if it is still wanted"),
    (Invalid, ExitCode.USAGE, ""),
    (NotFound, ExitCode.NOT_FOUND, ""),
    (Unauthenticated, ExitCode.DENIED, "`nodectl login` stores a token; `nodectl whoami` shows what the masters see"),
    (Forbidden, ExitCode.DENIED, "`nodectl whoami` shows your role and its limits"),
    (Denied, ExitCode.DENIED, "check --user, --password-file and the certificates"),
    (TimedOut, ExitCode.TIMED_OUT, "the request is not undone; `nodectl status` shows what is missing"),
    (OutcomeUnknown, ExitCode.OUTCOME_UNKNOWN, "check with `nodectl history` whether it took effect"),
    (NoSpace, ExitCode.UNAVAILABLE, "`nodectl status` shows how full etcd is; see docs/recovery.md"),
    (NodeUnavailable, ExitCode.UNAVAILABLE, "`nodectl node show NODE` shows whether its noded runs"),
    (Unavailable, ExitCode.UNAVAILABLE, "check that a masterd is running and that --endpoints is right"),
    (NodectlError, ExitCode.FAILED, ""),
)
"""The first row whose class matches applies."""


def explain(error: BaseException) -> Explanation:
    """Exit code, message and hint for `error`."""
    if isinstance(error, NodectlError):
        for kind, code, hint in _TABLE:
            if isinstance(error, kind):
                message = error.message or kind.__name__
                if reference := getattr(error, "reference", ""):  # a command: see CommandOutcomeUnknown
                    hint = f"`nodectl command-outcome {shlex.quote(reference)}` settles whether it took effect"
                names_remedy = kind is Unavailable and "`nodectl " in message  # a pause, for example: masterds do run
                hint = getattr(error, "hint", hint)  # that of a command which knows better: see commands/hosts
                return Explanation(code, message, "" if names_remedy else hint)
    if isinstance(error, KeyboardInterrupt):
        return Explanation(ExitCode.INTERRUPTED, "")
    if isinstance(error, OSError):
        at = f"{error.filename}: " if error.filename else ""
        return Explanation(ExitCode.FAILED, f"{at}{error.strerror or error}")
    text = f"internal error: {type(error).__name__}: {error}"
    return Explanation(ExitCode.FAILED, text, "set NODECTL_DEBUG=1 for the traceback, and please report it")
