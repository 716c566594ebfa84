"""Submissions: commands that wait for their outcomes, and the sinks that receive the outcomes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from masterd.state_machine.batch import CommandOutcome, CommandRequest
from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable


class OutcomeSink(Protocol):
    """Receives the outcomes of submissions."""

    def accept(self, position: int, outcome: CommandOutcome) -> None: ...


@dataclass(slots=True, eq=False)
class Submission:
    """A command that waits for its outcome. Later outcomes are ignored. position: its position in its group, if any.

    deadline: until when its sender waits, by the monotonic clock. is_wanted: returns False once the sender is gone.
    """

    request: CommandRequest
    sink: OutcomeSink
    position: int = 0
    is_resolved: bool = False
    deadline: float = math.inf
    is_wanted: Callable[[], bool] = lambda: True
    is_running: bool = False
    """Whether it is in the batch that runs or is being committed. Otherwise it has no effect, and can be dropped."""

    def resolve(self, outcome: CommandOutcome) -> None:
        if not self.is_resolved:
            self.is_resolved = True
            self.sink.accept(self.position, outcome)

    def fail(self, error: NodectlError) -> None:
        self.resolve(CommandOutcome(self.request.id, error=error))

    def is_over(self, now: float) -> bool:
        """Whether no caller waits for the outcome any more, so that the command need not be run."""
        return self.is_resolved or now >= self.deadline or not self.is_wanted()

    def give_up(self) -> None:
        """End the wait for the outcome, if there is none yet. A command that does not run yet will not be run."""
        if self.is_resolved:
            return
        if self.is_running:
            self.fail(OutcomeUnknown("the command was not committed in time; it may still be committed"))
        else:
            self.fail(Unavailable("the command was not run in time, and will not be: too many wait before it"))


def give_up_all(submissions: Iterable[Submission]) -> None:
    """End the wait for all outcomes that are still missing."""
    for submission in submissions:
        submission.give_up()


class SubmissionGroup:
    """Collects the outcomes of commands that were submitted together.

    They share one future, because there may be hundreds of them.
    """

    def __init__(self, commands: int) -> None:
        self.all_resolved: asyncio.Future[list[CommandOutcome]] = asyncio.get_running_loop().create_future()
        self._outcomes: list[CommandOutcome | None] = [None] * commands
        self._missing = commands

    def accept(self, position: int, outcome: CommandOutcome) -> None:
        self._outcomes[position] = outcome
        self._missing -= 1
        if self._missing == 0 and not self.all_resolved.done():
            self.all_resolved.set_result([known for known in self._outcomes if known is not None])


class OutcomeCallback:
    """Calls `callback` with the outcome of one command, by `call_soon`: never within the code that resolves it."""

    def __init__(self, callback: Callable[[CommandOutcome], None]) -> None:
        self._callback = callback

    def accept(self, _: int, outcome: CommandOutcome) -> None:
        asyncio.get_running_loop().call_soon(self._callback, outcome)
