"""Errors that only the client raises; all others are in nodestore.errors."""

from __future__ import annotations

from nodestore.errors import OutcomeUnknown


class CommandOutcomeUnknown(OutcomeUnknown):
    """The outcome of a command is unknown: it may have taken effect, may take effect later, or never.

    To settle it, ask for the outcome: `client.outcome_of(e.command_id, e.after)`. If the command has not taken effect,
    it never will after that. Or repeat the command: `client.command(name, args, id=e.command_id, after=e.after)`. If it
    has taken effect, this returns the first result; if not, the command runs once. It raises IdClosed if the outcome
    was asked for meanwhile. The client asks by itself for commands whose id it has chosen.

    `lost_leaders`: leaders that were lost after the command was sent to them. `reason`: why there is no answer.
    `is_forgotten`: the leader no longer remembers ids that far back, so that nothing can settle it.
    """

    def __init__(
        self, message: str, *, command_id: str, after: int, lost_leaders: tuple[str, ...] = (), reason: str = "",
        is_forgotten: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.command_id, self.after = command_id, after
        self.lost_leaders, self.reason, self.is_forgotten = lost_leaders, reason, is_forgotten

    @property
    def reference(self) -> str:
        """The id and `after` as `nodectl command-outcome` takes them; empty if that cannot help."""
        return "" if self.is_forgotten else f"{self.command_id}@{self.after}"

    def unanswered(self, error: Exception) -> CommandOutcomeUnknown:
        """The same error after the question for the outcome failed with `error`."""
        return CommandOutcomeUnknown(
            f"{self}; its outcome could not be asked for: {error}", command_id=self.command_id, after=self.after,
            lost_leaders=self.lost_leaders, reason=self.reason,
            is_forgotten=isinstance(error, CommandOutcomeUnknown) and error.is_forgotten,
        )  # fmt: skip


class Broken(Exception):
    """One request got no answer. `sent` is False if it certainly reached no master."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
