"""Errors that only a client can raise; all others are those of nodestore.errors."""

from __future__ import annotations

from nodestore.errors import OutcomeUnknown


class CommandOutcomeUnknown(OutcomeUnknown):
    """A command that may or may not have taken effect, now or later.

    To find out, send it again with both of these: `client.command(name, args, id=e.command_id, after=e.after)`.
    The first result comes back if it had taken effect, and it runs once if it had not.
    """

    def __init__(self, message: str, *, command_id: str, after: int) -> None:
        super().__init__(message)
        self.command_id = command_id
        self.after = after


class Broken(Exception):
    """No answer came to one request. `sent` is False when it surely reached nobody."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
