"""Errors that only the client raises; all others are in nodestore.errors."""

from __future__ import annotations

from nodestore.errors import OutcomeUnknown


class CommandOutcomeUnknown(OutcomeUnknown):
    """The outcome of a command is unknown: it may have taken effect, may take effect later, or never.

    To settle it, repeat the command: `client.command(name, args, id=e.command_id, after=e.after)`. If it has taken
    effect, this returns the first result; if not, the command runs once.
    """

    def __init__(self, message: str, *, command_id: str, after: int) -> None:
        super().__init__(message)
        self.command_id = command_id
        self.after = after


class Broken(Exception):
    """One request got no answer. `sent` is False if it certainly reached no master."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
