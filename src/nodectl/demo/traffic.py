"""The demo's load: a steady stream of commands from one client, each with an effect of its own.

Command 17 saves the scene tick-00017: the command is in the state if and only if that document exists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nodectl.workload.steady_load import SteadyLoad
from nodestore.errors import NodectlError, TimedOut

if TYPE_CHECKING:
    from nodectl.client import Client

COMMAND = "scene.save"
_TIMEOUT_S = 30.0
_IN_FLIGHT_MAX = 400


@dataclass(slots=True, eq=False)
class SentCommand:
    """One command and its outcome. Times are seconds on the monotonic clock."""

    id: str
    scene: str
    after: int
    sent: float
    acknowledged: float | None = None
    index: int = 0
    error: str = ""

    @property
    def args(self) -> dict[str, Any]:
        return {"name": self.scene, "nodes": {}, "description": "written by nodectl demo"}

    @property
    def path(self) -> str:
        return f"scenes/{self.scene}"

    @property
    def is_unanswered(self) -> bool:
        return self.acknowledged is None and not self.error


@dataclass(slots=True)
class Ledger:
    """All commands of a run, over all acts."""

    nonce: str
    sent: list[SentCommand] = field(default_factory=list)
    known_index: int = 0
    """The highest acknowledged index: the `after` of new commands."""

    def new_command(self, kind: str = "tick") -> SentCommand:
        number = len(self.sent) + 1
        command = SentCommand(f"{self.nonce}-{number}", f"{kind}-{number:05d}", self.known_index, time.monotonic())
        self.sent.append(command)
        return command

    def acknowledge(self, command: SentCommand, index: int) -> None:
        command.acknowledged, command.index = time.monotonic(), index
        self.known_index = max(self.known_index, index)

    @property
    def acknowledged(self) -> list[SentCommand]:
        return [command for command in self.sent if command.acknowledged is not None]

    @property
    def indexes(self) -> Mapping[str, int]:
        return {command.id: command.index for command in self.acknowledged}


class SceneLoad(SteadyLoad):
    """`async with SceneLoad(client, ledger) as traffic:` sends `rate_hz` commands a second until the block ends.

    After the block every command has an answer or has failed.
    """

    def __init__(self, client: Client, ledger: Ledger, rate_hz: float = 80.0) -> None:
        super().__init__()
        self._client, self._ledger, self._period_s = client, ledger, 1 / rate_hz
        self.commands: list[SentCommand] = []

    async def _send_loop(self) -> None:
        due = time.monotonic()
        while True:
            if self._in_flight < _IN_FLIGHT_MAX:
                self.send()
            due = max(due + self._period_s, time.monotonic() - self._period_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def send(self, count: int = 1) -> None:
        """Send `count` commands at once."""
        for _ in range(count):
            command = self._ledger.new_command()
            self.commands.append(command)
            self._start_sending(self._send(command), command.id)

    async def _send(self, command: SentCommand) -> None:
        try:
            result = await self._client.command(
                COMMAND, command.args, id=command.id, after=command.after, timeout_s=_TIMEOUT_S
            )
        except NodectlError as error:
            command.error = f"{type(error).__name__}: {error}"
        else:
            self._ledger.acknowledge(command, result.index)

    @property
    def acknowledged(self) -> list[SentCommand]:
        return [command for command in self.commands if command.acknowledged is not None]

    @property
    def in_flight(self) -> list[SentCommand]:
        return [command for command in self.commands if command.is_unanswered]

    @property
    def times(self) -> list[float]:
        """When acknowledgements arrived, in seconds on the monotonic clock."""
        return [command.acknowledged for command in self.commands if command.acknowledged is not None]

    async def wait_acknowledged(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until `count` commands sent from now on are acknowledged. Raises TimedOut after `timeout_s` seconds."""
        first = len(self.commands)
        deadline = time.monotonic() + timeout_s
        while sum(command.acknowledged is not None for command in self.commands[first:]) < count:
            if time.monotonic() > deadline:
                failed = next((command.error for command in self.commands[first:] if command.error), "no answer")
                raise TimedOut(f"fewer than {count} commands were acknowledged within {timeout_s:g} s: {failed}")
            await asyncio.sleep(0.005)
