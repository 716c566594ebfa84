"""Probe commands: a steady load of the command `drill.mark`, which is committed and changes nothing.

Reads would show whether the cluster serves, but the promises are about commands. Each probe command is in the journal
with an id and an index of its own, so that it can be found there and repeated. After a drill only these lines of the
history remain, until the journal is truncated; documents, nodes and snapshots are unchanged.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodectl.workload.steady_load import SteadyLoad
from nodestore.errors import NodectlError, NotFound, TimedOut

if TYPE_CHECKING:
    from nodectl.client import Client

COMMAND = "drill.mark"
_PERIOD_S = 0.03
_IN_FLIGHT_MAX = 100
_MARKS_MAX = 2_000
_POLL_S = 0.01


@dataclass(slots=True, eq=False)
class ProbeCommand:
    """One command and its outcome.

    `after`: the `after` with which it was sent; a repeat must send the same. `acknowledged`: monotonic time of the
    answer.
    """

    id: str
    after: int
    acknowledged: float | None = None
    index: int = 0
    repeated: bool = False
    error: NodectlError | None = None


class ProbeCommands(SteadyLoad):
    """`async with ProbeCommands(client, known, timeout_s) as marks:` sends probe commands until the block ends.

    After the block each command has an answer or an error. `known`: an index that the journal has reached.
    """

    def __init__(self, client: Client, known: int, timeout_s: float) -> None:
        super().__init__()
        self._client, self._known, self._timeout_s = client, known, timeout_s
        self._nonce = secrets.token_hex(6)
        self.sent: list[ProbeCommand] = []

    @property
    def acknowledged(self) -> list[ProbeCommand]:
        return [mark for mark in self.sent if mark.acknowledged is not None]

    async def _send_loop(self) -> None:
        while len(self.sent) < _MARKS_MAX:
            if self._in_flight < _IN_FLIGHT_MAX:
                mark = ProbeCommand(f"drill-{self._nonce}-{len(self.sent) + 1}", self._known)
                self.sent.append(mark)
                self._start_sending(self._send(mark), mark.id)
            await asyncio.sleep(_PERIOD_S)

    async def _send(self, mark: ProbeCommand) -> None:
        try:
            result = await self._client.command(COMMAND, id=mark.id, after=mark.after, timeout_s=self._timeout_s)
        except NodectlError as error:
            mark.error = error
            return
        mark.acknowledged, mark.index, mark.repeated = time.monotonic(), result.index, result.repeated
        self._known = max(self._known, result.index)

    async def wait_acknowledged(self, count: int, timeout_s: float) -> None:
        """Wait until `count` commands sent from now on are acknowledged.

        Raises TimedOut after `timeout_s` seconds, and NotFound if the leader does not know the command.
        """
        first, deadline = len(self.sent), time.monotonic() + timeout_s
        while True:
            new = self.sent[first:]
            if sum(mark.acknowledged is not None for mark in new) >= count:
                return
            failed = next((mark.error for mark in new if mark.error is not None), None)
            if isinstance(failed, NotFound):
                raise NotFound(f"the leader's version does not support drills: {failed}; nothing was done")
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"fewer than {count} commands were acknowledged within {timeout_s:g} s: {failed or 'no answer'}"
                )
            await asyncio.sleep(_POLL_S)

    async def repeat(self, marks: list[ProbeCommand]) -> list[tuple[ProbeCommand, int | None, bool, str]]:
        """Send commands again with their ids. Return for each: its index (None: it failed), `repeated`, the error."""

        async def one(mark: ProbeCommand) -> tuple[ProbeCommand, int | None, bool, str]:
            try:
                result = await self._client.command(COMMAND, id=mark.id, after=mark.after, timeout_s=self._timeout_s)
            except NodectlError as error:
                return mark, None, False, str(error)
            return mark, result.index, result.repeated, ""

        return list(await asyncio.gather(*(one(mark) for mark in marks)))
