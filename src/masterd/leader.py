"""The leader: group commit, adoption of configuration, views. One task commits; everybody else waits for it.

The order of things, and who may die between which two:

1. A batch runs on an overlay. Dying here loses nothing: nobody was answered.
2. One transaction commits entry, head and, if they fit, the views. Dying after it: the entry is in the journal, the
   next leader has it, and a repeat of the command gets its first result.
3. Memory follows, callers are answered. Answers never precede the commit, and nothing that fails after it reaches
   them: what cannot be followed ends the term.
4. Views that did not fit follow in chunks before the next commit, each comparing `applied`. Dying here: the next
   leader finds `applied` incomplete and finishes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from masterd.app import Application
from masterd.archive import Archive
from masterd.board import Board
from masterd.confirmation import Confirmation
from masterd.derivation import Derivation
from masterd.execution import RESTORE, Batch, Limits, Outcome, Request, encode_entry
from masterd.housekeeping import Housekeeping, Retention
from masterd.journal import Commit, CompareFailed, Journal, TermBroken
from masterd.publisher import Publisher
from masterd.replica import Replica
from masterd.views import Room, changes_of, document_view
from nodestore.election import Won
from nodestore.errors import Garbage, LeadershipLost, NodectlError, OutcomeUnknown, TooLarge, Unavailable
from nodestore.etcd import KV, Compare, Etcd, Op, cmp_mod, op_put
from nodestore.keys import Keys
from nodestore.models import ConfigRecord, Entry, decode
from nodestore.tasks import together

log = logging.getLogger(__name__)

_SLACK_BYTES = 32 << 10  # keys, compares, head and framing of one transaction
_OWN_OPS = 4  # head, entry, applied, and the manifest of a snapshot that is restored
_ADOPT_AGAIN_S = 0.2


@dataclass(frozen=True)
class LeaderSettings:
    """Limits of a leader. Those of etcd must not exceed what every member was started with."""

    max_txn_ops: int = 128
    request_bytes_max: int = 1_500_000
    queue_max: int = 10_000
    commands_per_batch: int = 256
    retention: Retention = field(default_factory=Retention)

    @property
    def limits(self) -> Limits:
        entry_bytes_max = max(16 << 10, self.request_bytes_max - _SLACK_BYTES - (128 << 10))
        return Limits(self.commands_per_batch, entry_bytes_max, self.request_bytes_max - 2 * _SLACK_BYTES)

    def room(self, taken_bytes: int) -> Room:
        """What is left for views beside an entry of that size."""
        return Room(self.max_txn_ops - _OWN_OPS, max(0, self.request_bytes_max - _SLACK_BYTES - taken_bytes))


@dataclass(slots=True)
class _Waiting:
    request: Request
    future: asyncio.Future[Outcome]


class Leader:
    """One term of leadership. `run` ends only by an error: LeadershipLost when the term is over."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        *,
        master: str,
        won: Won,
        replica: Replica,
        board: Board,
        application: Application,
        settings: LeaderSettings,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd, self._keys, self._master, self._won = etcd, keys, master, won
        self._replica, self._board, self._application = replica, board, application
        self._settings, self._wall_clock = settings, wall_clock
        self.fence = won.fence
        self.serving = asyncio.Event()
        self.rejected: tuple[int, str] | None = None
        """config/current's mod_revision and why it is not adopted."""
        self._confirmation = Confirmation(etcd, keys, won.fence)
        self._derivation = Derivation(application)
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._ended: NodectlError | None = None
        self._closing = False
        self._journal = Journal(etcd, keys, won.fence, won.head)
        self._publisher = Publisher(etcd, keys, won.fence)
        self._housekeeping = Housekeeping(won.fence, replica, self._publisher, settings.retention, wall_clock)
        self.archive = Archive(won.fence, self._housekeeping)

    # --- what callers use ---

    async def submit(self, requests: Sequence[Request]) -> list[Outcome]:
        """Run commands in this order; their outcomes, once committed. Errors of single ones are in their outcomes.

        LeadershipLost or Unavailable: none of them was run. OutcomeUnknown outcomes: repeat with the same id.
        """
        self._check_open()
        if len(self._queue) + len(requests) > self._settings.queue_max:
            raise Unavailable(f"{len(self._queue)} commands are waiting already; try again in a moment")
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(request, loop.create_future()) for request in requests]
        self._queue.extend(waiting)
        self._wake.set()
        return list(await asyncio.gather(*(item.future for item in waiting)))

    async def confirm(self) -> None:
        """Return once memory holds everything that was committed before this call, the term being ours still."""
        self._check_open()
        begun = time.monotonic()
        index = await self._confirmation.confirm()
        await self._replica.wait_for(index, 5.0)
        self._replica.heard = max(self._replica.heard, begun)

    def close_for_handover(self) -> None:
        """Take no more commands; those that wait are finished."""
        self._closing = True

    def reopen(self) -> None:
        """The handover came to nothing: go on."""
        self._closing = False
        self._wake.set()

    async def drained(self) -> None:
        """Until nothing waits any more."""
        while self._queue or not self._idle.is_set():
            await self._idle.wait()
            await asyncio.sleep(0)

    def _check_open(self) -> None:
        if self._ended is not None:
            raise LeadershipLost(str(self._ended))
        if self._closing:
            raise LeadershipLost("this master is handing leadership over")

    # --- the term ---

    async def run(self) -> None:
        """Lead until the term is over: LeadershipLost. Garbage when the store holds what stops commits."""
        unsubscribe = self._board.subscribe(self._look_around)
        try:
            derivation = self._prepare_derivation()
            await self._respec()
            await self._publisher.finish(self._won.applied, self._replica.state, derivation, self._settings.room(0))
            await self._adopt(self._won.config)
            self.serving.set()
            self._look_around()
            await together(commit=self._commit_for_ever(), housekeeping=self._housekeeping.run())
        finally:
            unsubscribe()
            self._end(LeadershipLost(f"{self._master} no longer leads"))
            await self._confirmation.close()

    def _prepare_derivation(self) -> Derivation:
        state = self._replica.state
        self._derivation = Derivation(self._application)
        Batch(state, self._application, self._derivation, self._wall_clock()).rebuild()
        return self._derivation

    def _end(self, error: NodectlError) -> None:
        self.serving.clear()
        self._ended = error
        while self._queue:
            _resolve(self._queue.popleft(), LeadershipLost(str(error)))

    def _look_around(self) -> None:
        """Something changed in etcd: a new leader ends the term, a new configuration is work."""
        seen, ours = self._board.leader, self.fence.term.revision
        # The watch may still show what was before our term; an absent key counts only after it has shown ours.
        if seen.revision > ours or (seen.revision == 0 and self._board.last_leader.revision >= ours):
            self._ended = LeadershipLost(f"{seen.record.id if seen.record else 'somebody'} leads now")
        self._wake.set()

    async def _commit_for_ever(self) -> None:
        while True:
            if self._ended is not None:
                raise self._ended
            config = self._board.config
            if config is not None and self._to_adopt(config):
                await self._adopt(config)
            elif self._queue:
                self._idle.clear()
                await self._commit_batch()
            else:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()

    # --- commands ---

    def _batch(self) -> Batch:
        state = self._replica.state
        return Batch(state, self._application, self._derivation, self._wall_clock(), self._settings.limits)

    async def _commit_batch(self) -> None:
        batch = self._batch()
        taken: list[tuple[_Waiting, Outcome]] = []
        if self._queue[0].request.name == RESTORE:
            waiting = self._queue.popleft()
            taken.append((waiting, await self._run_restore(batch, waiting)))
        while self._queue and len(taken) < self._settings.commands_per_batch and not batch.restored:
            if self._queue[0].request.name == RESTORE:
                break
            outcome = batch.run(self._queue[0].request)
            if outcome is None:
                break
            taken.append((self._queue.popleft(), outcome))
        await self._commit_taken(batch, taken)
        self._housekeeping.pinned.clear()  # the journal names it now, or nothing ever will

    async def _run_restore(self, batch: Batch, waiting: _Waiting) -> Outcome:
        """A restore goes alone: its documents come from etcd, and its entry only names their snapshot."""
        try:
            name, documents = await self.archive.to_restore(waiting.request.args)
            return batch.restore(waiting.request, name, documents)
        except NodectlError as error:
            if isinstance(error, LeadershipLost):
                _resolve(waiting, error)
                raise
            return Outcome(waiting.request.id, error=error)
        except BaseException:
            _resolve(waiting, LeadershipLost("this master was stopped before it restored anything"))
            raise

    async def _commit_taken(self, batch: Batch, taken: list[tuple[_Waiting, Outcome]]) -> None:
        def answer() -> None:
            for waiting, outcome in taken:
                if not waiting.future.done():
                    waiting.future.set_result(outcome)

        try:
            if batch.records:
                await self._commit(batch, landed=answer)
            else:
                await self._confirmation.confirm()
                answer()
        except NodectlError as error:
            for waiting, _ in taken:
                _resolve(waiting, error)
            if isinstance(error, LeadershipLost | OutcomeUnknown | Garbage):
                raise
            log.warning("a batch of %d commands was not committed: %s", len(taken), error)
        except BaseException:
            for waiting, _ in taken:
                _resolve(waiting, OutcomeUnknown("this master was stopped while committing it: it may have been"))
            raise

    async def _commit(
        self,
        batch: Batch,
        compares: tuple[Compare, ...] = (),
        *,
        landed: Callable[[], None] | None = None,
        publish: bool = True,
    ) -> None:
        """Commit a batch; memory and views follow. `landed` is called as soon as it has landed: an error that is
        raised later is about what follows, and ends the term."""
        nonce = secrets.token_hex(8)
        last = batch.records[-1].index
        if last - len(batch.records) != self._journal.index:
            raise TermBroken(f"memory is at {last - len(batch.records)}, the journal at {self._journal.index}")
        raw = encode_entry(self.fence.term.epoch, self.fence.term.revision, nonce, batch.encoded)
        changes = changes_of(self._keys, self.fence.term, batch.records, batch.derived)
        for path, document in batch.restored.items():
            changes[self._keys.document(path)] = None if document is None else document_view(last, document)
        views = self._publisher.inline(changes, last, self._settings.room(len(raw))) if publish else []
        try:
            held = await self._held(batch)
            own = [op_put(self._keys.entry(last), raw), *(op for _, op in held)]
            compares = (*compares, *(compare for compare, _ in held))
            revision = await self._journal.commit(Commit.moving_to(last, [*own, *views], compares))
        except BaseException:
            batch.undo_derivation()
            raise
        if landed is not None:
            landed()
        if views:
            self._publisher.published(last, revision)
        entry = Entry.model_construct(
            v=1, epoch=self.fence.term.epoch, term=self.fence.term.revision, nonce=nonce, commands=tuple(batch.records)
        )
        try:
            await self._replica.apply(entry, len(raw))
            self._replica.heard = time.monotonic()
            if publish and not views:
                await self._publisher.bring_up(changes, last, self._settings.room(0))
        except LeadershipLost:
            raise
        except NodectlError as error:
            raise TermBroken(f"index {last} is committed, but could not be followed: {error}") from error

    async def _held(self, batch: Batch) -> list[tuple[Compare, Op]]:
        """What keeps the snapshots that this batch restores from being deleted. NotFound when one is gone already."""
        names = [record.restore for record in batch.records if record.restore is not None]
        return [await self._replica.snapshots.hold(name) for name in names]

    # --- configuration ---

    def _to_adopt(self, config: KV) -> bool:
        adopted = self._replica.state.adopted
        if self.rejected is not None and self.rejected[0] == config.mod_revision:
            return False
        return adopted is None or adopted.revision != config.mod_revision

    async def _adopt(self, config: KV | None) -> None:
        """Bring a configuration into force by an entry that holds it. Garbage leaves the last one in force."""
        if config is None or not self._to_adopt(config):
            return
        batch = self._batch()
        try:
            record = decode(ConfigRecord, config.value, config.key)
            batch.adopt(record, config.mod_revision)
        except (ValidationError, NodectlError) as error:
            batch.undo_derivation()
            self._reject(config, error)
            return
        try:
            await self._commit(batch, (_unchanged(config),))
        except CompareFailed:
            log.info("config/current changed while it was being adopted; looking again")
            await self._reread_config()
        except (LeadershipLost, OutcomeUnknown):
            raise
        except TooLarge as error:
            self._reject(config, error)
        except NodectlError as error:
            log.warning("adopting configuration later: %s", error)
            await asyncio.sleep(_ADOPT_AGAIN_S)
        else:
            self.rejected = None
            log.info("adopted configuration version %d as index %d", record.version, self._replica.index)

    def _reject(self, config: KV, error: ValidationError | NodectlError) -> None:
        self.rejected = (config.mod_revision, _one_line(error))
        log.error("config/current is not adopted: %s", self.rejected[1])

    async def _reread_config(self) -> None:
        """The watch may lag behind the compare that failed: look for ourselves."""
        try:
            self._board.config = await self._etcd.get(self._keys.config_current)
        except Unavailable as error:
            log.warning("adopting configuration later: %s", error)
            await asyncio.sleep(_ADOPT_AGAIN_S)
        self._wake.set()

    async def _respec(self) -> None:
        """Where this program derives other specs than the recorded ones, commit that first. Its views are left to
        `finish`: until then `applied` must not say that all views are as of its index."""
        batch = self._batch()
        record = batch.respec(self._master, self.fence.nonce)
        if record is not None:
            await self._commit(batch, publish=False)
            log.info("this program derives other specs for %s: recorded as index %d", record.result, record.index)


def _unchanged(config: KV) -> Compare:
    return cmp_mod(config.key, config.mod_revision)


def _resolve(waiting: _Waiting, error: NodectlError) -> None:
    if not waiting.future.done():
        waiting.future.set_result(Outcome(waiting.request.id, error=error))


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".lstrip(": ")
    return str(error)
