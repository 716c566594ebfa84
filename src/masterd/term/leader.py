"""The leader: group commit, adoption of configuration, news of the nodes. One task commits; all others wait for it.

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
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from masterd.application.contract import Application
from masterd.application.worker import HungError, Progress
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import Board
from masterd.replication.replica import Replica
from masterd.state_machine.batch import RESTORE, Batch, Outcome, Request
from masterd.term.action_closing import Endings
from masterd.term.archive import Archive
from masterd.term.challenge_responder import Answers
from masterd.term.committer import Committer, LeaderSettings
from masterd.term.config_adoption import Adoption
from masterd.term.journal import TermBroken
from masterd.term.node_events import News
from masterd.term.read_index import Confirmation
from masterd.term.retention import Housekeeping
from masterd.term.submissions import Together, Waiting
from masterd.term.takeover_record import Chronicle
from masterd.term.warm_start import Rehearsal
from masterd.upkeep.space_keeper import Spacekeeper
from nodestore.cluster.election import Won
from nodestore.errors import (
    Garbage,
    LeadershipLost,
    NodectlError,
    NoSpace,
    OutcomeUnknown,
    Unavailable,
)
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import together
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_COMMANDS_FIRST_S = 0.1
"""After so long a new leader begins to look after the store: commands that have waited for its term go first."""
_HANDOVER_S = 6.0
_STUCK_MAX = 4
"""Threads of the application that hang: with so many, commands that have hung before are refused unrun."""

__all__ = ["Leader", "LeaderSettings"]


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
        space: Spacekeeper | None = None,
        timeline: Timeline | None = None,
        rehearsal: Rehearsal | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd, self._keys, self._master, self._won = etcd, keys, master, won
        self._replica, self._board, self._settings, self._space = replica, board, settings, space
        self.fence = won.fence
        self._rehearsal = rehearsal
        self._chronicle = Chronicle(etcd, keys, won.fence, timeline or Timeline())
        self.serving = asyncio.Event()
        self._confirmation = Confirmation(etcd, keys, won.fence)
        self._queue: deque[Waiting] = deque()
        self._limited_log = RateLimitedLog(log)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._ended: LeadershipLost | None = None
        self._found = False
        """Whether a client has asked for anything in this term."""
        self._handovers = 0
        self._taking = asyncio.Event()
        self._taking.set()
        self._committer = Committer(etcd, keys, won, replica, application, settings, wall_clock)
        self._adoption = Adoption(etcd, keys, board, replica, self._committer, settings.derive_timeout_s)
        self._news = News(board, application, won.fence.term.epoch, self._wake.set)
        self._hung: set[str] = set()
        self._endings = Endings(
            etcd, keys, self._news, replica, self._committer, settings.derive_timeout_s, self._wake.set
        )
        self._housekeeping = Housekeeping(won.fence, replica, self._committer.publisher, settings.retention, wall_clock)
        self._answers = Answers(etcd, keys, won.fence, board)
        self.archive = Archive(won.fence, self._housekeeping)

    @property
    def rejected(self) -> tuple[int, str] | None:
        """config/current's mod_revision and why it is not adopted."""
        return self._adoption.rejected

    @property
    def ended(self) -> bool:
        """Whether this term is known to be over."""
        return self._ended is not None

    @property
    def stuck_s(self) -> float:
        """For how long something that etcd has to agree to has been under way; 0 when nothing is."""
        since = [at for at in (self._committer.journal.open_since, self._confirmation.open_since) if at is not None]
        return time.monotonic() - min(since) if since else 0.0

    # --- what callers use ---

    async def submit(self, requests: Sequence[Request]) -> list[Outcome]:
        """Run commands in this order; their outcomes, once committed. Errors of single ones are in their outcomes.

        LeadershipLost or Unavailable: none of them was run. OutcomeUnknown outcomes: repeat with the same id.
        """
        await self._open()
        if (full := self._full()) is not None:
            raise full
        if len(self._queue) + len(requests) > self._settings.queue_max:
            raise Unavailable(f"{len(self._queue)} commands are waiting already; try again in a moment")
        if not requests:
            return []
        self._found_by_client()
        answers = Together(len(requests))
        self._queue.extend([Waiting(request, answers, position) for position, request in enumerate(requests)])
        self._wake.set()
        return await answers.all_known

    async def confirm(self) -> None:
        """For a client: return once memory holds everything that was committed before this call, the term being ours
        still."""
        self._found_by_client()
        await self.check()
        self._has_answered()

    async def check(self) -> None:
        """The same for ourselves."""
        self._check_open()
        begun = time.monotonic()
        try:
            index = await self._confirmation.confirm()
        except LeadershipLost as error:
            self._is_over(error)
            raise
        await self._replica.wait_for(index, 5.0)
        self._replica.heard = max(self._replica.heard, begun)

    def _found_by_client(self) -> None:
        if self.serving.is_set():
            self._chronicle.mark("found")
        self._found = True

    def _has_answered(self) -> None:
        """A client. Reads from what it caught up with may come before it serves; they do not show that it works."""
        if self.serving.is_set():
            self._chronicle.mark("first_answer")

    def close_for_handover(self) -> None:
        """Take no more commands for now: those that wait are finished, those that come wait for how it ends."""
        self._handovers += 1
        self._taking.clear()

    def reopen(self) -> None:
        """The handover came to nothing: go on, unless another one is under way."""
        self._handovers -= 1
        if self._handovers == 0:
            self._taking.set()

    async def drained(self) -> None:
        """Until nothing waits any more. LeadershipLost when the term ended before."""
        while self._queue or not self._idle.is_set():
            await self._idle.wait()
            await asyncio.sleep(0)
        self._check_open()

    def _full(self) -> NoSpace | None:
        """Why etcd has no room for commands; None when it has."""
        return None if self._space is None else self._space.refusal()

    async def _open(self) -> None:
        """Returns when commands are taken; LeadershipLost when they never will be again."""
        if not self._taking.is_set() and not await set_within(self._taking, _HANDOVER_S):
            raise LeadershipLost("this master is handing leadership over")
        self._check_open()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise LeadershipLost(str(self._ended))

    # --- the term ---

    async def run(self) -> None:
        """Lead until the term is over: LeadershipLost. Garbage when the store holds what stops commits."""
        unsubscribe = self._board.subscribe(self._look_around)
        deaf = self._news.begin()
        space = asyncio.get_running_loop().call_later(_COMMANDS_FIRST_S, self._look_after_space)
        try:
            if not await self._derive():
                await self._respec()
            await self._endings.close_those_before(self.fence.term.epoch)
            committer = self._committer
            await committer.publisher.finish(
                self._won.applied, self._replica.state, committer.derivation, self._settings.room(0)
            )
            await self._adoption.adopt(self._won.config)
            self.serving.set()
            self._chronicle.mark("serving")
            if self._found:  # it has waited for this
                self._chronicle.mark("found")
            self._look_around()
            await together(
                commit=self._commit_for_ever(),
                housekeeping=self._keep_house(),
                answers=self._answers.run(),
                chronicle=self._chronicle.run(),
            )
        finally:
            unsubscribe()
            deaf()
            space.cancel()
            if self._space is not None:
                self._space.led_by(None)
            self._end(LeadershipLost(f"{self._master} no longer leads"))
            self._committer.worker.close()
            await self._confirmation.close()

    def _is_over(self, error: LeadershipLost) -> None:
        """Nothing of this term lands any more; known before anybody is told, who then asks its successor."""
        self._ended = self._ended or error
        self._wake.set()

    def _fail(self, asked: Iterable[Waiting], error: NodectlError) -> None:
        """Tell them what etcd has come back with."""
        if isinstance(error, LeadershipLost):
            self._is_over(error)
        for waiting in asked:
            waiting.fail(error)

    def _end(self, error: LeadershipLost) -> None:
        self.serving.clear()
        self._ended = error
        self._taking.set()
        while self._queue:
            self._queue.popleft().fail(LeadershipLost(str(error)))
        self._idle.set()

    def _look_around(self) -> None:
        """Something changed in etcd: a new leader ends the term, a new configuration is work."""
        seen, ours = self._board.leader, self.fence.term.revision
        # The watch may still show what was before our term; an absent key counts only after it has shown ours.
        if seen.revision > ours or (seen.revision == 0 and self._board.last_leader.revision >= ours):
            self._is_over(LeadershipLost(f"{seen.record.id if seen.record else 'somebody'} leads now"))
        self._wake.set()

    async def _commit_for_ever(self) -> None:
        while True:
            if self._ended is not None:
                raise self._ended
            self._idle.clear()
            self._queue_news()
            if self._adoption.due(self._board.config):
                await self._adoption.adopt(self._board.config)
            elif self._endings.due:  # before what waits: something may always wait
                await self._endings.expire()
            elif self._queue:
                await self._commit_batch()
            else:
                self._idle.set()
                self._wake.clear()
                await set_within(self._wake, self._endings.due_in_s)

    def _queue_news(self) -> None:
        """What nodes did goes before what waits: it is little, and it is late already."""
        if self._full() is None:
            self._queue.extendleft(reversed(self._endings.commands()))

    async def _derive(self) -> bool:
        """Know what the nodes must be, if that is not known yet; whether it is what the state has recorded."""
        try:
            ahead = await self._rehearsal.of(self._replica.state) if self._rehearsal is not None else None
        except HungError as error:
            raise TermBroken(f"the application does not say what the nodes must be: it {error}") from None
        if ahead is None:
            return await self._committer.rebuild()
        self._committer.begin_with(ahead)
        return ahead.agrees

    def _look_after_space(self) -> None:
        if self._space is not None:
            self._space.led_by(self._housekeeping, self._wake.set)

    async def _keep_house(self) -> None:
        await asyncio.sleep(_COMMANDS_FIRST_S)
        await self._housekeeping.run()

    async def _respec(self) -> None:
        """Where this program derives other specs than the recorded ones, commit that first. Its views are left to
        `finish`: until then `applied` must not say that all views are as of its index."""
        nonce = self.fence.nonce
        batch, record = await self._committer.run(
            lambda batch, _: batch.respec(self._master, nonce), self._settings.derive_timeout_s
        )
        if record is not None:
            await self._committer.commit(batch, publish=False)
            log.info("this program derives other specs for %s: recorded as index %d", record.result, record.index)

    # --- commands ---

    async def _commit_batch(self) -> None:
        if self._queue[0].request.name == RESTORE:
            waiting = self._queue.popleft()
            await self._commit_restore(waiting)
            return
        asked = self._next()
        if not asked:
            return
        try:
            batch, outcomes = await self._committer.run(
                lambda batch, progress: _run_all(batch, progress, asked), self._settings.handler_timeout_s,
                here=self._committer.quick([waiting.request for waiting in asked]),
            )  # fmt: skip
        except HungError as error:
            await self._refuse_hung(asked[error.step], error)
            return
        for _ in outcomes:
            self._queue.popleft()
        await self._commit_taken(batch, list(zip(asked, outcomes, strict=False)))

    def _next(self) -> list[Waiting]:
        """What waits, as much as may go into one batch. What has hung before is refused while too much still hangs."""
        asked: list[Waiting] = []
        refuse = self._hung if self._committer.worker.stuck >= _STUCK_MAX else frozenset[str]()
        known = self._replica.state.ids  # a repeat is not run: it gets what it came to
        for waiting in islice(self._queue, self._settings.commands_per_batch):
            request = waiting.request
            if request.name == RESTORE or (request.name in refuse and request.id not in known):
                break
            asked.append(waiting)
        if not asked:
            waiting = self._queue.popleft()
            waiting.fail(NodectlError(
                f"command {waiting.request.name} was not run: {self._committer.worker.stuck} handlers of this "
                "application hang, of this command too"
            ))  # fmt: skip
        return asked

    async def _refuse_hung(self, waiting: Waiting, error: HungError) -> None:
        """Its caller gets an error; the others of its batch are run again, as nothing of it counts."""
        name = waiting.request.name
        log.error("command %s of %s %s: it is given up", name, waiting.request.actor, error)
        self._hung.add(name)
        self._queue.remove(waiting)
        try:
            await self._confirmation.confirm()
        except NodectlError as lost:
            self._fail([waiting], lost)
            if isinstance(lost, LeadershipLost | Garbage):
                raise
            return
        except BaseException:
            waiting.fail(LeadershipLost("this master was stopped before it could say that it had done nothing"))
            raise
        waiting.fail(NodectlError(f"command {name} {error} in the application: nothing of it was done"))

    async def _commit_restore(self, waiting: Waiting) -> None:
        """A restore goes alone: its documents come from etcd, and its entry only names their snapshot."""
        try:
            batch, outcome = await self._run_restore(waiting.request)
        except LeadershipLost as error:
            self._fail([waiting], error)
            raise
        except BaseException:
            waiting.fail(LeadershipLost("this master was stopped before it restored anything"))
            raise
        await self._commit_taken(batch, [(waiting, outcome)])
        self._housekeeping.pinned.clear()  # the journal names it now, or nothing ever will

    async def _run_restore(self, request: Request) -> tuple[Batch | None, Outcome]:
        try:
            name, documents = await self.archive.to_restore(request.args)
            return await self._committer.run(
                lambda batch, _: batch.restore(request, name, documents), self._settings.derive_timeout_s
            )
        except (LeadershipLost, TermBroken):
            raise
        except HungError as error:
            return None, Outcome(request.id, error=NodectlError(f"{RESTORE} {error} in the application"))
        except NodectlError as error:
            return None, Outcome(request.id, error=error)

    async def _commit_taken(self, batch: Batch | None, taken: Sequence[tuple[Waiting, Outcome]]) -> None:
        def answer() -> None:
            if any(isinstance(waiting.heard, Together) for waiting, _ in taken):  # else it was this leader's own
                self._has_answered()
            for waiting, outcome in taken:
                waiting.resolve(outcome)

        try:
            if batch is not None and batch.records:
                await self._committer.commit(batch, landed=answer)
            else:
                await self._confirmation.confirm()
                answer()
        except NodectlError as error:
            self._fail([waiting for waiting, _ in taken], error)
            if isinstance(error, LeadershipLost | OutcomeUnknown | Garbage):
                raise
            self._limited_log.log(
                logging.WARNING, f"a batch of {len(taken)} commands was not committed: {error}", about=error.code
            )
        except BaseException:
            for waiting, _ in taken:
                waiting.fail(OutcomeUnknown("this master was stopped while committing it: it may have been"))
            raise


def _run_all(batch: Batch, progress: Progress, asked: Sequence[Waiting]) -> list[Outcome]:
    """The outcomes of as many as fit."""
    outcomes: list[Outcome] = []
    for step, waiting in enumerate(asked):
        progress.begin(step)
        outcome = batch.run(waiting.request)
        if outcome is None:
            break
        outcomes.append(outcome)
    return outcomes
