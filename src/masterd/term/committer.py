"""Running batches and committing them: one at a time, with memory and views following each.

The application's code runs in the worker's thread; everything else here in the event loop.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from masterd.application.contract import Application
from masterd.application.worker import HungError, JobProgress, Worker
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch, BatchLimits, CommandRequest, encode_entry
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.views import TxnBudget, changes_of, document_view
from masterd.term.journal import Commit, Journal, TermBroken
from masterd.term.publisher import Publisher
from masterd.term.retention import RetentionSettings
from masterd.term.warm_start import PreparedSpecs, derive_all
from nodestore.cluster.election import TakeoverWon
from nodestore.errors import LeadershipLost, NodectlError
from nodestore.etcd.session import Compare, Etcd, Op, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Entry
from nodestore.support.time_slices import TimeSlice

log = logging.getLogger(__name__)

T = TypeVar("T")

_SLACK_BYTES = 32 << 10  # keys, compares, head and framing of one transaction
_INLINE_MAX = 4
"""So few quick commands are run in the event loop: with a busy machine the way to a thread and back costs more."""
_INLINE_LIMIT_S = 0.02
_INLINE_PAUSE_S = 60.0
"""Where they took longer than this (a document of a megabyte, say), they go to the thread for the next minute."""
_FIXED_OPS = 4  # head, entry, applied, and the manifest of a snapshot that is restored


@dataclass(frozen=True)
class LeaderSettings:
    """Limits of a leader. Those of etcd must not exceed what every member was started with."""

    max_txn_ops: int = 128
    request_bytes_max: int = 1_500_000
    queue_max: int = 10_000
    commands_per_batch: int = 256
    handler_timeout_s: float = 2.0
    """For one command: its handler, and what the nodes must be after it. It is an emergency brake, not a budget."""
    derive_timeout_s: float = 20.0
    """For what all nodes must be: at a start, and when a configuration is adopted or a snapshot restored."""
    retention: RetentionSettings = field(default_factory=RetentionSettings)

    @property
    def limits(self) -> BatchLimits:
        entry_bytes_max = max(16 << 10, self.request_bytes_max - _SLACK_BYTES - (128 << 10))
        return BatchLimits(self.commands_per_batch, entry_bytes_max, self.request_bytes_max - 2 * _SLACK_BYTES)

    def txn_budget(self, taken_bytes: int) -> TxnBudget:
        """What is left for views beside an entry of that size."""
        return TxnBudget(self.max_txn_ops - _FIXED_OPS, max(0, self.request_bytes_max - _SLACK_BYTES - taken_bytes))


class Committer:
    """The leader's, for one term. Nothing here may be called twice at a time."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        won: TakeoverWon,
        replica: Replica,
        application: Application,
        settings: LeaderSettings,
        wall_clock: Callable[[], float],
    ) -> None:
        self._keys, self._fence, self._replica = keys, won.fence, replica
        self._application, self._settings, self._wall_clock = application, settings, wall_clock
        self.spec_deriver = SpecDeriver(application)
        self.journal = Journal(etcd, keys, won.fence, won.head)
        self.publisher = Publisher(etcd, keys, won.fence)
        self.worker = Worker()
        self._inline_from = 0.0
        self._quick_commands: frozenset[str] = frozenset()

    @property
    def now(self) -> float:
        """The leader's time, which never goes back behind what it has committed."""
        return max(self._wall_clock(), self._replica.state.time)

    def may_run_inline(self, requests: Sequence[CommandRequest]) -> bool:
        """Whether these are few, and all of them promise to end at once."""
        if len(requests) > _INLINE_MAX or time.monotonic() < self._inline_from:
            return False
        return all(request.name in self._quick_commands for request in requests)

    async def run_batch(
        self, work: Callable[[Batch, JobProgress], T], limit_s: float, *, inline: bool = False
    ) -> tuple[Batch, T]:
        """What `work` makes of a new batch. Whatever it raises has left the specs as they are, if it restores them;
        HungError: nothing of it counts, and the specs have been derived anew. `inline`: in this thread, unguarded."""
        batch = Batch(
            self._replica.state, self._application, self.spec_deriver, self._wall_clock(), self._settings.limits,
            epoch=self._fence.term.epoch, on_fault=_log_fault,
        )  # fmt: skip
        if inline:
            begun = time.monotonic()
            made = work(batch, JobProgress())
            if (ended := time.monotonic()) > begun + _INLINE_LIMIT_S:
                self._inline_from = ended + _INLINE_PAUSE_S
            return batch, made
        try:
            return batch, await self.worker.run(lambda progress: work(batch, progress), limit_s)
        except HungError:
            await self.rebuild_specs()
            raise

    def use_prepared_specs(self, ahead: PreparedSpecs) -> None:
        """All specs of the committed state, derived before the term was won."""
        self.spec_deriver, self._quick_commands = ahead.spec_deriver, ahead.quick_commands

    async def rebuild_specs(self) -> bool:
        """Derive all specs from the committed state, from nothing; whether they are the recorded ones."""
        self.spec_deriver = derivation = SpecDeriver(self._application)
        batch = Batch(self._replica.state, self._application, derivation, self._wall_clock())

        def work(_: JobProgress) -> bool:
            self._quick_commands, agrees = derive_all(batch, self._application)
            return agrees

        return await self._derive(work)

    async def undo(self, batch: Batch) -> None:
        """The batch came to nothing: all specs are those of the committed state again."""
        await self._derive(lambda _: batch.undo_derivation())

    async def _derive(self, work: Callable[[JobProgress], T]) -> T:
        try:
            return await self.worker.run(work, self._settings.derive_timeout_s)
        except HungError as error:
            raise TermBroken(f"the application does not say what the nodes must be: it {error}") from None

    async def commit(
        self,
        batch: Batch,
        compares: tuple[Compare, ...] = (),
        *,
        on_landed: Callable[[], None] | None = None,
        publish: bool = True,
    ) -> None:
        """Commit a batch; memory and views follow. `on_landed` is called as soon as it has landed: an error that is
        raised later is about what follows, and ends the term. `publish`: False leaves all views to `finish`."""
        nonce = secrets.token_hex(8)
        last = batch.records[-1].index
        if last - len(batch.records) != self.journal.index:
            raise TermBroken(f"memory is at {last - len(batch.records)}, the journal at {self.journal.index}")
        term = self._fence.term
        raw = encode_entry(term.epoch, term.revision, nonce, batch.encoded)
        changes = changes_of(self._keys, term, batch.records, batch.changed_specs, batch.pending)
        turns = TimeSlice()
        for path, document in batch.restored_documents.items():
            changes[self._keys.document(path)] = None if document is None else document_view(last, document)
            await turns.yield_if_used_up()
        views = self.publisher.inline_ops(changes, last, self._settings.txn_budget(len(raw))) if publish else []
        try:
            held = await self._restore_guards(batch)
            own = [op_put(self._keys.entry(last), raw), *(op for _, op in held)]
            compares = (*compares, *(compare for compare, _ in held))
            revision = await self.journal.commit(Commit.moving_to(last, [*own, *views], compares))
        except NodectlError:
            await self.undo(batch)
            raise
        if on_landed is not None:
            on_landed()
        if views:
            self.publisher.note_published(last, revision)
        entry = Entry.model_construct(
            v=1, epoch=term.epoch, term=term.revision, nonce=nonce, commands=tuple(batch.records)
        )
        try:
            await self._replica.apply(entry, len(raw))
            self._replica.up_to_date_at = time.monotonic()
            if publish and not views:
                await self.publisher.write_views(changes, last, self._settings.txn_budget(0))
        except LeadershipLost:
            raise
        except NodectlError as error:
            raise TermBroken(f"index {last} is committed, but could not be followed: {error}") from error

    async def _restore_guards(self, batch: Batch) -> list[tuple[Compare, Op]]:
        """What keeps the snapshots that this batch restores from being deleted. NotFound when one is gone already."""
        names = [record.restore for record in batch.records if record.restore is not None]
        return [await self._replica.snapshots.restore_guard(name) for name in names]


def _log_fault(name: str, error: BaseException) -> None:
    log.error("command %s failed in the application", name, exc_info=error)
