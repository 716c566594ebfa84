"""Commands that wait for their outcomes, and whoever waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from masterd.state_machine.batch import Outcome, Request
from nodestore.errors import NodectlError


class Heard(Protocol):
    """Whoever waits for outcomes."""

    def take(self, position: int, outcome: Outcome) -> None: ...


@dataclass(slots=True, eq=False)
class Waiting:
    """A command that waits for its outcome; the first one counts. `position`: among those of whoever waits for it."""

    request: Request
    heard: Heard
    position: int = 0
    resolved: bool = False

    def resolve(self, outcome: Outcome) -> None:
        if not self.resolved:
            self.resolved = True
            self.heard.take(self.position, outcome)

    def fail(self, error: NodectlError) -> None:
        self.resolve(Outcome(self.request.id, error=error))


class Together:
    """The outcomes of commands that came in one request: one future for all, as there may be hundreds."""

    def __init__(self, commands: int) -> None:
        self.all_known: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._outcomes: list[Outcome | None] = [None] * commands
        self._missing = commands

    def take(self, position: int, outcome: Outcome) -> None:
        self._outcomes[position] = outcome
        self._missing -= 1
        if self._missing == 0 and not self.all_known.done():
            self.all_known.set_result([known for known in self._outcomes if known is not None])


class ToldLater:
    """Of a single command; not in the middle of what resolves it."""

    def __init__(self, told: Callable[[Outcome], None]) -> None:
        self._told = told

    def take(self, _: int, outcome: Outcome) -> None:
        asyncio.get_running_loop().call_soon(self._told, outcome)
