"""Writes small entries to etcd's raft log, so that large ones leave the memory of etcd's members: see `log_credit`."""

from __future__ import annotations

import asyncio
import logging
import time

from masterd.term.pacing.log_credit import ByteRate, LogCredit
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, cmp_mod, op_delete
from nodestore.schema.keys import Keys
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import owned_task

log = logging.getLogger(__name__)

_IN_FLIGHT = 32
_TIMEOUT_S = 1.0
_NEVER = (1 << 62) + 1
"""A mod_revision that no key ever has."""


class LogTurnover:
    """Keeps etcd's raft log small in bytes while a leader commits large documents, or many commands at once.

    After each commit, `start` begins to write the small entries that are due, while the callers get their answers and
    the next batch runs. Before the next commit, `catch_up` waits until they are written.
    """

    def __init__(self, etcd: Etcd, keys: Keys, credit: LogCredit | None = None) -> None:
        self._etcd, self._keys, self._credit, self._rate = etcd, keys, credit or LogCredit(), ByteRate()
        self._limited_log = RateLimitedLog(log, 60.0)
        self._writing: asyncio.Task[None] | None = None

    def note_commit(self, commands: int, size: int, revision: int) -> None:
        """Note a commit of so many commands and `size` bytes, which got this revision."""
        self._credit.note_commit(size, revision)
        self._rate.note_commit(commands, size, time.monotonic())

    def start(self) -> None:
        """Begin to write the small entries that are due. Returns at once."""
        if self._writing is None and self._credit.entries_due > 0:
            self._writing = owned_task(self._write_entries_due(), name="turn etcd's raft log over")

    async def close(self) -> None:
        """Write no more."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            (ended,) = await asyncio.gather(writing, return_exceptions=True)
            if isinstance(ended, Exception):  # no commit followed that would have raised it
                log.error("etcd's raft log was not turned over: %r", ended, exc_info=ended)

    async def catch_up(self) -> float:
        """Write the small entries that are due, and wait until the rate of bytes allows another commit.

        Return how long both took, in seconds. If etcd does not take the small entries, they are written after a later
        commit.
        """
        begun = time.monotonic()
        self.start()
        if self._writing is not None:
            try:
                await self._writing
            finally:
                self._writing = None
        if (pause_s := self._rate.pause_s(time.monotonic())) > 0:
            await asyncio.sleep(pause_s)
        return time.monotonic() - begun

    async def _write_entries_due(self) -> None:
        while (due := self._credit.entries_due) > 0:
            results = await asyncio.gather(
                *(self._write_small_entry() for _ in range(min(due, _IN_FLIGHT))), return_exceptions=True
            )
            failures = [result for result in results if result is not None]
            self._credit.note_small_entries(len(results) - len(failures))
            for failure in failures:
                if not isinstance(failure, NodectlError):
                    raise failure
                self._limited_log.log(
                    logging.INFO, f"etcd's raft log is not turned over: {failure}", about=failure.code
                )
                return

    async def _write_small_entry(self) -> None:
        # A transaction that could write is an entry of the raft log, even if its compare fails. It has no revision, and
        # no watch sees it. The compare can never hold, so copies of it are harmless at any time, in any term.
        await self._etcd.txn([cmp_mod(self._keys.head, _NEVER)], [op_delete(self._keys.head)], timeout_s=_TIMEOUT_S)
