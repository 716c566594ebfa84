"""Reads results that are remembered by index only, from the journal.

An entry never changes, so the result that is read is the first one, whichever masterd reads it and however late. If the
entry is gone, the command has taken effect nevertheless. It is not run again, and its error is ResultForgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from msgspec.structs import replace

from masterd.replication.journal_reader import read_entries
from masterd.state_machine.batch import CommandOutcome
from nodestore.errors import Garbage, NodectlError, OutcomeUnknown, ResultForgotten
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.records import JournalRecord


class ResultRecall:
    """Completes outcomes whose results are in the journal."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys

    async def complete(self, outcomes: Sequence[CommandOutcome]) -> list[CommandOutcome]:
        """Return these outcomes, each with its result or with the error that stands for it."""
        return [await self._complete(outcome) if outcome.result_in_journal else outcome for outcome in outcomes]

    async def _complete(self, outcome: CommandOutcome) -> CommandOutcome:
        try:
            record = await self._read(outcome.index)
        except NodectlError as error:
            # Not Unavailable: a client takes that as a proof that the command has had no effect.
            unknown = OutcomeUnknown(f"command {outcome.id} took effect at index {outcome.index}, but its result could "
                                     f"not be read: {error}; repeat it with the same id")  # fmt: skip
            return replace(outcome, error=unknown, result_in_journal=False)
        if record is None or record.id != outcome.id:
            forgotten = ResultForgotten(f"command {outcome.id} took effect at index {outcome.index} and was not run "
                                        "again, but its result is no longer kept")  # fmt: skip
            return replace(outcome, error=forgotten, result_in_journal=False)
        return replace(outcome, result=record.result, result_in_journal=False)

    async def _read(self, index: int) -> JournalRecord | None:
        """The record with this index; None if its entry was truncated or cannot be read."""
        entries = read_entries(self._etcd, self._keys, index, index, 1)
        async with aclosing(entries):
            async for _, entry in entries:
                if isinstance(entry, Garbage):
                    continue
                return next((record for record in entry.commands if record.index == index), None)
        return None
