"""The basic calls of the masters' API. `Client` implements them; the classes with its public methods use them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from nodectl.client.connection.results import CommandResult
from nodestore.schema.api_types import Consistency


class ApiCalls(ABC):
    """The four basic calls.

    `get` reads. `change` sends a request that is not repeated. `command` takes effect exactly once. `journal` streams
    commands.
    """

    @abstractmethod
    async def get(
        self,
        path: str,
        params: Mapping[str, str | int | None] | None = None,
        *,
        consistency: Consistency = "linearizable",
        timeout_s: float | None = None,
    ) -> Any:
        """Return the JSON answer of GET `path` (which begins with /v1/).

        `linearizable`: the leader answers, and the answer includes everything acknowledged before the call. `local`:
        any masterd answers from memory, possibly a little behind. The request is repeated until it is answered.
        Raises Unavailable if no master answered within `timeout_s` (seconds).
        """

    @abstractmethod
    async def change(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request that changes something; return its JSON answer.

        It is not repeated once a master may have received it: if its answer is lost, this raises OutcomeUnknown.
        """

    @abstractmethod
    async def command(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        after: int | None = None,
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Run one command of the application; it takes effect exactly once, even if leaders die meanwhile.

        If its answer is lost, the client asks for the outcome near the end of the time limit, unless the caller gave an
        `id`: then the command never runs later. To repeat a command that ended with CommandOutcomeUnknown, pass its
        `id` and `after`. Raises Unavailable if the command was not run within `timeout_s` (seconds) and will not be,
        CommandOutcomeUnknown if that cannot be known, and the typed error (Refused, NotFound, Conflict, TooOld,
        Invalid...) if the leader refused it.
        """

    @abstractmethod
    def journal(self, after: int | str | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Yield each command after `after`, in order, without gaps or repetitions, without end, across leaders.

        `after`: the `position` of an earlier command, or an index; None: from now on. A position is safer, because it
        also detects that the store was restored from a backup. Raises TooOld in that case, and if entries after
        `after` have been truncated: read the state again, then follow from its index.
        """
