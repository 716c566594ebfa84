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
from masterd.application.worker import HungError, Progress, Worker
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch, Limits, Request, encode_entry
from masterd.state_machine.specs import Derivation
from masterd.state_machine.views import Room, changes_of, document_view
from masterd.term.journal import Commit, Journal, TermBroken
from masterd.term.publisher import Publisher
from masterd.term.retention import Retention
from masterd.term.warm_start import Derived, derive
from nodestore.cluster.election import Won
from nodestore.errors import LeadershipLost, NodectlError
from nodestore.etcd.session import Compare, Etcd, Op, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Entry
from nodestore.support.time_slices import Turns

log = logging.getLogger(__name__)

T = TypeVar("T")

_SLACK_BYTES = 32 << 10  # keys, compares, head and framing of one transaction
_HERE_MAX = 4
"""So few quick commands are run in the event loop: with a busy machine the way to a thread and back costs more."""
_HERE_S = 0.02
_HERE_AGAIN_S = 60.0
"""Where they took longer than this (a document of a megabyte, say), they go to the thread for the next minute."""
_OWN_OPS = 4  # head, entry, applied, and the manifest of a snapshot that is restored


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
    retention: Retention = field(default_factory=Retention)

    @property
    def limits(self) -> Limits:
        entry_bytes_max = max(16 << 10, self.request_bytes_max - _SLACK_BYTES - (128 << 10))
        return Limits(self.commands_per_batch, entry_bytes_max, self.request_bytes_max - 2 * _SLACK_BYTES)

    def room(self, taken_bytes: int) -> Room:
        """What is left for views beside an entry of that size."""
        return Room(self.max_txn_ops - _OWN_OPS, max(0, self.request_bytes_max - _SLACK_BYTES - taken_bytes))


class Committer:
    """The leader's, for one term. Nothing here may be called twice at a time."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        won: Won,
        replica: Replica,
        application: Application,
        settings: LeaderSettings,
        wall_clock: Callable[[], float],
    ) -> None:
        self._keys, self._fence, self._replica = keys, won.fence, replica
        self._application, self._settings, self._wall_clock = application, settings, wall_clock
        self.derivation = Derivation(application)
        self.journal = Journal(etcd, keys, won.fence, won.head)
        self.publisher = Publisher(etcd, keys, won.fence)
        self.worker = Worker()
        self._here_from = 0.0
        self._quick: frozenset[str] = frozenset()

    @property
    def now(self) -> float:
        """The leader's time, which never goes back behind what it has committed."""
        return max(self._wall_clock(), self._replica.state.time)

    def quick(self, requests: Sequence[Request]) -> bool:
        """Whether these are few, and all of them promise to end at once."""
        if len(requests) > _HERE_MAX or time.monotonic() < self._here_from:
            return False
        return all(request.name in self._quick for request in requests)

    async def run(self, work: Callable[[Batch, Progress], T], limit_s: float, *, here: bool = False) -> tuple[Batch, T]:
        """What `work` makes of a new batch. Whatever it raises has left the specs as they are, if it restores them;
        HungError: nothing of it counts, and the specs have been derived anew. `here`: in this thread, unguarded."""
        batch = Batch(
            self._replica.state, self._application, self.derivation, self._wall_clock(), self._settings.limits,
            epoch=self._fence.term.epoch, on_fault=_log_fault,
        )  # fmt: skip
        if here:
            begun = time.monotonic()
            made = work(batch, Progress())
            if (ended := time.monotonic()) > begun + _HERE_S:
                self._here_from = ended + _HERE_AGAIN_S
            return batch, made
        try:
            return batch, await self.worker.run(lambda progress: work(batch, progress), limit_s)
        except HungError:
            await self.rebuild()
            raise

    def begin_with(self, ahead: Derived) -> None:
        """All specs of the committed state, derived before the term was won."""
        self.derivation, self._quick = ahead.derivation, ahead.quick

    async def rebuild(self) -> bool:
        """Derive all specs from the committed state, from nothing; whether they are the recorded ones."""
        self.derivation = derivation = Derivation(self._application)
        batch = Batch(self._replica.state, self._application, derivation, self._wall_clock())

        def work(_: Progress) -> bool:
            self._quick, agrees = derive(batch, self._application)
            return agrees

        return await self._derive(work)

    async def undo(self, batch: Batch) -> None:
        """The batch came to nothing: all specs are those of the committed state again."""
        await self._derive(lambda _: batch.undo_derivation())

    async def _derive(self, work: Callable[[Progress], T]) -> T:
        try:
            return await self.worker.run(work, self._settings.derive_timeout_s)
        except HungError as error:
            raise TermBroken(f"the application does not say what the nodes must be: it {error}") from None

    async def commit(
        self,
        batch: Batch,
        compares: tuple[Compare, ...] = (),
        *,
        landed: Callable[[], None] | None = None,
        publish: bool = True,
    ) -> None:
        """Commit a batch; memory and views follow. `landed` is called as soon as it has landed: an error that is
        raised later is about what follows, and ends the term. `publish`: False leaves all views to `finish`."""
        nonce = secrets.token_hex(8)
        last = batch.records[-1].index
        if last - len(batch.records) != self.journal.index:
            raise TermBroken(f"memory is at {last - len(batch.records)}, the journal at {self.journal.index}")
        term = self._fence.term
        raw = encode_entry(term.epoch, term.revision, nonce, batch.encoded)
        changes = changes_of(self._keys, term, batch.records, batch.derived, batch.pending)
        turns = Turns()
        for path, document in batch.restored.items():
            changes[self._keys.document(path)] = None if document is None else document_view(last, document)
            await turns.end()
        views = self.publisher.inline(changes, last, self._settings.room(len(raw))) if publish else []
        try:
            held = await self._held(batch)
            own = [op_put(self._keys.entry(last), raw), *(op for _, op in held)]
            compares = (*compares, *(compare for compare, _ in held))
            revision = await self.journal.commit(Commit.moving_to(last, [*own, *views], compares))
        except NodectlError:
            await self.undo(batch)
            raise
        if landed is not None:
            landed()
        if views:
            self.publisher.published(last, revision)
        entry = Entry.model_construct(
            v=1, epoch=term.epoch, term=term.revision, nonce=nonce, commands=tuple(batch.records)
        )
        try:
            await self._replica.apply(entry, len(raw))
            self._replica.heard = time.monotonic()
            if publish and not views:
                await self.publisher.bring_up(changes, last, self._settings.room(0))
        except LeadershipLost:
            raise
        except NodectlError as error:
            raise TermBroken(f"index {last} is committed, but could not be followed: {error}") from error

    async def _held(self, batch: Batch) -> list[tuple[Compare, Op]]:
        """What keeps the snapshots that this batch restores from being deleted. NotFound when one is gone already."""
        names = [record.restore for record in batch.records if record.restore is not None]
        return [await self._replica.snapshots.hold(name) for name in names]


def _log_fault(name: str, error: BaseException) -> None:
    log.error("command %s failed in the application", name, exc_info=error)
