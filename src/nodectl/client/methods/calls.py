"""What all that a client offers is made of. `Client` does these; the classes it is put together from use them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from nodectl.client.connection.results import CommandResult
from nodestore.schema.api_types import Consistency


class ApiCalls(ABC):
    """A read, a change that is not repeated, a command that takes effect exactly once, and the journal."""

    @abstractmethod
    async def get(
        self,
        path: str,
        params: Mapping[str, str | int | None] | None = None,
        *,
        consistency: Consistency = "linearizable",
        timeout_s: float | None = None,
    ) -> Any:
        """The JSON answer of GET `path` (beginning with /v1/).

        `linearizable` asks the leader and includes everything acknowledged before; `local` takes what any masterd
        holds in memory. Repeated until it is answered; Unavailable when nobody did within `timeout_s` (seconds).
        """

    @abstractmethod
    async def change(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer of a request that changes something. OutcomeUnknown when it may have been received and its
        answer was lost: it is not repeated."""

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
        """Runs one command of the application, exactly once, whoever dies meanwhile.

        To repeat one that ended with CommandOutcomeUnknown, pass its `id` and `after`. Raises Unavailable when it was
        surely not run within `timeout_s` (seconds), CommandOutcomeUnknown when it may have been, and the typed error
        (Refused, NotFound, Conflict, TooOld, Invalid...) when the leader refused it.
        """

    @abstractmethod
    def journal(self, after: int | str | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Each command after `after`, in order, none twice and none left out, for ever, through changes of leader.

        `after` is an index, or the `position` of a command that came before, which is safer: it also tells when the
        store was restored from a backup since. None: from now on. TooOld then, and when the journal is no longer kept
        from there: read the state anew.
        """
