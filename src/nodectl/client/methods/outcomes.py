"""The question what became of a command whose answer was lost."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from nodectl.client.connection.backoff import backoff
from nodectl.client.connection.errors import CommandOutcomeUnknown
from nodectl.client.connection.http import encode_body
from nodectl.client.connection.requests import Requests
from nodectl.client.connection.results import CommandResult
from nodectl.client.methods.calls import ApiCalls
from nodestore.errors import NodectlError, NotFound, OutcomeUnknown, ResultForgotten, TooOld, Unavailable
from nodestore.schema.api_types import SettledOutcome

PATH = "/v1/commands/outcome"
_ASK_S = 2.0
_ASK_PART = 0.25
_SHORTEST_S = 0.05


class OutcomeCalls(ApiCalls):
    """The methods of Client for lost answers. Client provides the attributes."""

    actor: str
    _requests: Requests
    _read_timeout_s: float

    async def outcome_of(self, id: str, after: int, *, timeout_s: float | None = None) -> SettledOutcome:
        """Return what became of the command with this `id`, for good: `took_effect`, its `index` and `result`.

        If no command with this id has taken effect, the leader closes the id: the command never will, and a later copy
        of it is refused (IdClosed). The command itself is not sent. `after` must be that of the command, as in
        CommandOutcomeUnknown, or a smaller index: with a larger one the answer may be wrong.

        Raises CommandOutcomeUnknown if the leader no longer remembers ids that far back, Conflict if the store was
        restored from a backup, and Unavailable if no leader answered within `timeout_s` (seconds). The id may be closed
        nevertheless in the last case.
        """
        limit_s = self._read_timeout_s if timeout_s is None else timeout_s
        try:
            return await self._ask(id, after, limit_s)
        except TooOld as error:
            text = f"it cannot be known any more whether command {id} has taken effect: {error}"
            raise CommandOutcomeUnknown(text, command_id=id, after=after, is_forgotten=True) from None
        except NotFound:
            raise Unavailable("the leader is of an earlier release, which cannot be asked for outcomes") from None

    async def _ask(self, id: str, after: int, limit_s: float) -> SettledOutcome:
        """Ask until the leader knows. After OutcomeUnknown the closing entry may be committed: a repeat finds it."""
        deadline, pauses = time.monotonic() + limit_s, backoff()
        body = encode_body({"id": id, "after": after, "actor": self.actor})
        while True:
            left_s = max(deadline - time.monotonic(), _SHORTEST_S)
            try:
                return cast(SettledOutcome, await self._requests.to_leader("POST", PATH, body=body, timeout_s=left_s))
            except OutcomeUnknown as error:
                pause_s = pauses.next_s()
                if time.monotonic() + pause_s >= deadline:
                    raise Unavailable(f"the outcome was not answered within {limit_s:g} s: {error}") from None
                await asyncio.sleep(pause_s)

    async def _settled(self, unknown: CommandOutcomeUnknown, limit_s: float) -> CommandResult:
        """The result of a command without an answer, by the question for its outcome.

        Raises Unavailable if it has not taken effect and never will, NodectlError if leaders were lost under it as
        well, ResultForgotten if its result is not kept, and CommandOutcomeUnknown if that cannot be known now.
        """
        try:
            outcome = await self.outcome_of(unknown.command_id, unknown.after, timeout_s=limit_s)
        except NodectlError as error:
            raise unknown.unanswered(error) from None
        index = outcome["index"]
        if not outcome["took_effect"]:
            kind = NodectlError if unknown.lost_leaders else Unavailable
            raise kind(
                f"command {outcome['id']} has not taken effect, and no copy of it ever will (its id was closed at "
                f"index {index}): {unknown.reason}"
            )
        if not outcome["result_kept"]:
            raise ResultForgotten(
                f"command {outcome['id']} took effect at index {index}, but its result is no longer kept"
            )
        return CommandResult(index, outcome["id"], outcome["result"], repeated=True)


def ask_time_s(timeout_s: float) -> float:
    """How long before the deadline of a command the client asks for its outcome instead of sending it again."""
    return min(_ASK_S, timeout_s * _ASK_PART)
