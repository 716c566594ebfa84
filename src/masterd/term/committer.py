"""Runs and commits batches, one at a time; after each commit it updates the replica in memory and the views.

The application's code runs in the worker's thread, except for batches of `quick` commands. These, and everything else
here, run in the event loop.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from masterd.application.contract import Application
from masterd.application.worker import HungError, JobProgress, Worker
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch, BatchLimits, CommandRequest
from masterd.state_machine.leader_clock import LeaderClock
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.views import TxnBudget, changes_of, document_view, marked_again
from masterd.term.derivation.all_specs import DerivationLimits, DerivedSpecs, derive_all
from masterd.term.journal import Commit, Journal, TermBroken
from masterd.term.pacing.batch_pace import BatchPace
from masterd.term.pacing.log_turnover import LogTurnover
from masterd.term.publisher import Publisher
from masterd.term.retention import RetentionSettings
from masterd.upkeep.store_budget import StoreBudget
from nodestore.cluster.election import TakeoverWon
from nodestore.errors import LeadershipLost, NodectlError
from nodestore.etcd.session import Compare, Etcd, Op, op_put
from nodestore.schema.entry_codec import encode_entry
from nodestore.schema.keys import Keys
from nodestore.schema.models import SCHEMA_VERSION
from nodestore.schema.records import EntryStruct
from nodestore.support.time_slices import TimeSlice

log = logging.getLogger(__name__)

T = TypeVar("T")

_SLACK_BYTES = 32 << 10  # keys, compares, head and framing of one transaction
_INLINE_S = 0.02
"""A batch of `quick` commands, which runs in the event loop, ends after this time; the rest of them wait for the next
one. In a thread it would be slower: 64 commands take 2 ms, and the way to the thread and back another 0.3 ms."""
_QUICK_S = 0.001
"""What a `quick` command promises."""
_INLINE_PAUSE_S = 60.0
"""If a batch in the event loop took longer than _INLINE_S and _QUICK_S for each of its commands, all batches run in the
thread for this long."""
_FIXED_OPS = 4  # head, entry, applied, and the manifest of a restored snapshot


@dataclass(frozen=True, kw_only=True)
class LeaderSettings:
    """Limits of a leader. max_txn_ops and request_bytes_max must not exceed the limits of any etcd member."""

    max_txn_ops: int = 128
    request_bytes_max: int = 1_500_000
    queue_max: int = 10_000
    commands_per_batch: int = 256
    handler_timeout_s: float = 2.0
    """Limit for one command: its handler and the specs derived after it. Meant to stop code that hangs."""
    derive_timeout_s: float = 20.0
    """Limit for deriving all specs: at the start of a term, at a configuration's adoption, and at a restore."""
    derive_node_timeout_s: float = 5.0
    """Limit for one node, where all specs are derived from the committed state."""
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    budget: StoreBudget = field(default_factory=StoreBudget)

    @property
    def derivation(self) -> DerivationLimits:
        return DerivationLimits(self.derive_node_timeout_s, max(self.derive_timeout_s, 4 * self.derive_node_timeout_s))

    @property
    def limits(self) -> BatchLimits:
        entry_bytes_max = max(16 << 10, self.request_bytes_max - _SLACK_BYTES - (128 << 10))
        return BatchLimits(
            self.commands_per_batch, entry_bytes_max, self.request_bytes_max - 2 * _SLACK_BYTES,
            self.budget.state_bytes_max,
        )  # fmt: skip

    def txn_budget(self, entry_bytes: int) -> TxnBudget:
        """Return how much of a transaction is left for views if its entry has `entry_bytes` bytes."""
        return TxnBudget(self.max_txn_ops - _FIXED_OPS, max(0, self.request_bytes_max - _SLACK_BYTES - entry_bytes))


class Committer:
    """Runs and commits batches for one term. Not reentrant: the next call must wait for the previous one."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        won: TakeoverWon,
        replica: Replica,
        application: Application,
        settings: LeaderSettings,
        clock: LeaderClock,
    ) -> None:
        self._keys, self._fence, self._replica = keys, won.fence, replica
        self._application, self._settings, self.clock = application, settings, clock
        self._hung: dict[str, str] = {}
        self.spec_deriver = SpecDeriver(application, self._hung)
        self.journal = Journal(etcd, keys, won.fence, won.head, replica.index)
        self.publisher = Publisher(etcd, keys, won.fence)
        self._log_turnover = LogTurnover(etcd, keys)
        self._limits = settings.limits
        self.worker = Worker()
        self.ids_bytes_max = settings.budget.ids_bytes_max
        """Limit for remembered results. Lower while etcd is short of space; see `term/results/forgetter.py`."""
        self.pace = BatchPace(settings.commands_per_batch, self._limits.entry_bytes_max)
        self._inline_allowed_at = 0.0
        self._quick_commands: frozenset[str] = frozenset()

    @property
    def now(self) -> float:
        """The leader's time, but never earlier than the last committed time."""
        return max(self.clock.now(), self._replica.state.time)

    @property
    def application_to_record(self) -> str | None:
        """The name of this leader's application, if the journal does not record it yet: the next entry carries it."""
        name = self._application.name
        return None if name == self._replica.state.application else name

    @property
    def hung_nodes(self) -> tuple[str, ...]:
        """The nodes for which the application is not asked, because it hung."""
        return tuple(self._hung)

    def ask_again(self, node: str) -> None:
        """Derive the spec of `node` again with the next `Batch.respec`, although the application hung for it."""
        self._hung.pop(node, None)

    def may_run_inline(self, requests: Sequence[CommandRequest]) -> bool:
        """Whether these commands may run in the event loop: all are declared `quick` or questions, and none was slow
        lately."""
        if time.monotonic() < self._inline_allowed_at:
            return False
        return all(request.asks_outcome or request.name in self._quick_commands for request in requests)

    async def run_batch(
        self, work: Callable[[Batch, JobProgress], T], limit_s: float, *, inline: bool = False
    ) -> tuple[Batch, T]:
        """Run `work` on a new batch; return the batch and the result of `work`.

        HungError: a step of `work` took longer than `limit_s` seconds. The batch cannot be used, and all specs have
        been derived again from the committed state. If it hung for a node that hangs with the committed state too, that
        node is left out, and `work` runs again on a new batch. Any other error comes from `work`, which must restore
        the specs before it raises. inline: run in the event loop, without limit; `work` should begin no step once its
        progress is out of time.
        """
        while True:
            try:
                return await self._run_once(work, limit_s, inline)
            except HungError as error:
                await self.rebuild_specs()
                if error.node is None or error.node not in self._hung:
                    raise

    async def _run_once(self, work: Callable[[Batch, JobProgress], T], limit_s: float, inline: bool) -> tuple[Batch, T]:
        deriver = self.spec_deriver
        batch = Batch(
            self._replica.state, self._application, deriver, self.clock.now(), self._paced_limits,
            epoch=self._fence.term.epoch, on_fault=_log_fault,
        )  # fmt: skip
        if inline:
            return batch, self._run_inline(batch, work)
        return batch, await self.worker.run(lambda progress: work(batch, progress), limit_s, deriver.node_in_progress)

    def _run_inline(self, batch: Batch, work: Callable[[Batch, JobProgress], T]) -> T:
        started = time.monotonic()
        progress = JobProgress(end_by=started + _INLINE_S)
        result = work(batch, progress)
        if (ended := time.monotonic()) > started + _INLINE_S + _QUICK_S * (progress.step + 1):
            self._inline_allowed_at = ended + _INLINE_PAUSE_S
        return result

    @property
    def _paced_limits(self) -> BatchLimits:
        """The limits of the next batch."""
        return replace(self._limits, commands_max=self.pace.commands, batch_bytes_max=self.pace.bytes)

    def use_specs(self, derived: DerivedSpecs) -> None:
        """Use specs that were derived from the committed state, for example before the term was won."""
        self.spec_deriver, self._quick_commands = derived.spec_deriver, derived.quick_commands
        self._hung = derived.hung

    async def rebuild_specs(self) -> bool:
        """Derive all specs from the committed state; return whether they equal the recorded ones.

        A node for which the application hangs is left out from then on. No behaviour of the application raises.
        """
        derived = await derive_all(
            lambda deriver: Batch(self._replica.state, self._application, deriver, self.clock.now()),
            self._application, self.worker, self._settings.derivation, self._hung,
        )  # fmt: skip
        self.use_specs(derived)
        return derived.matches_recorded

    async def undo(self, batch: Batch) -> None:
        """Reset all specs to those of the committed state, after a batch was not committed."""
        try:
            await self.worker.run(lambda _: batch.undo_derivation(), self._settings.derive_timeout_s)
        except HungError:
            await self.rebuild_specs()

    async def commit(
        self,
        batch: Batch,
        compares: tuple[Compare, ...] = (),
        *,
        on_landed: Callable[[], None] | None = None,
        publish: bool = True,
    ) -> None:
        """Commit a batch, apply it to the replica in memory and update the views.

        on_landed: called as soon as the batch is committed. An error after that call concerns the replica or the views,
        and ends the term. publish: if False, no view is written; `Publisher.finish_views` writes them later.
        Raises the errors of `Journal.commit`; after each of them the specs are those of the committed state.
        """
        nonce = secrets.token_hex(8)
        last = batch.records[-1].index
        if last - len(batch.records) != self.journal.index:
            raise TermBroken(f"memory is at index {last - len(batch.records)}, the journal at {self.journal.index}")
        term = self._fence.term
        floor = self._replica.state.floor_within(self.ids_bytes_max)
        application = self.application_to_record
        raw = encode_entry(term.epoch, term.revision, nonce, batch.encoded, floor, application)
        marks = self.spec_deriver.secret_fields
        changes = changes_of(self._keys, term, batch.records, batch.changed_specs, batch.pending, marks)
        if marks != self.spec_deriver.secret_fields_of(self._replica.state.inventory):
            changes.update(marked_again(self._keys, term, self._replica.state, self.spec_deriver, changes))
        time_slice = TimeSlice()
        for path, document in batch.restored_documents.items():
            changes[self._keys.document(path)] = None if document is None else document_view(last, document)
            await time_slice.yield_if_used_up()
        views = self.publisher.inline_ops(changes, last, self._settings.txn_budget(len(raw))) if publish else []
        try:
            guards = await self._restore_guards(batch)
            ops = [op_put(self._keys.entry(last), raw), *(op for _, op in guards), *views]
            compares = (*compares, *(compare for compare, _ in guards))
            commit = Commit.moving_to(last, ops, compares, nonce)
            self.pace.note_pause(await self._log_turnover.catch_up())
            begun = time.monotonic()
            revision = await self.journal.commit(commit)
            self.pace.note_commit(commit.size_bytes, time.monotonic() - begun)
            self._log_turnover.note_commit(len(batch.records), commit.size_bytes, revision)
        except NodectlError:
            await self.undo(batch)
            raise
        if on_landed is not None:
            on_landed()
        if views:
            self.publisher.note_published(last, revision)
        entry = EntryStruct(
            v=SCHEMA_VERSION, epoch=term.epoch, term=term.revision, nonce=nonce, commands=tuple(batch.records),
            floor=floor, application=application,
        )  # fmt: skip
        try:
            await self._replica.apply(entry, raw)
            if any(record.time_shift is not None for record in batch.records):
                self.clock.set(self._replica.state.time)
            self._replica.up_to_date_at = time.monotonic()
            if publish and not views:
                await self.publisher.write_views(changes, last, self._settings.txn_budget(0))
            self._log_turnover.start()
        except LeadershipLost:
            raise
        except Exception as error:  # whatever it is, memory and journal may differ now
            raise TermBroken(f"index {last} is committed, but could not be applied or published: {error}") from error

    async def close(self) -> None:
        """End the threads and tasks, at the end of the term."""
        self.worker.close()
        await self._log_turnover.close()

    async def _restore_guards(self, batch: Batch) -> list[tuple[Compare, Op]]:
        """Return compares and writes that prevent deletion of the restored snapshots. NotFound if one was deleted."""
        names = [record.restore for record in batch.records if record.restore is not None]
        return [await self._replica.snapshots.restore_guard(name) for name in names]


def _log_fault(name: str, error: BaseException) -> None:
    log.error("command %s failed in the application", name, exc_info=error)
