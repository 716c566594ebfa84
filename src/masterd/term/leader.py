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
from masterd.application.worker import HungError, JobProgress
from masterd.election.timeline import Timeline
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.batch import SNAPSHOT_RESTORE, Batch, CommandOutcome, CommandRequest
from masterd.term.action_closing import ActionCloser
from masterd.term.archive import SnapshotArchive
from masterd.term.challenge_responder import ChallengeResponder
from masterd.term.committer import Committer, LeaderSettings
from masterd.term.config_adoption import ConfigAdopter
from masterd.term.journal import TermBroken
from masterd.term.node_events import NodeEvents
from masterd.term.read_index import ReadIndex
from masterd.term.retention import JournalRetention
from masterd.term.submissions import Submission, SubmissionGroup
from masterd.term.takeover_record import TakeoverRecord
from masterd.term.warm_start import WarmStart
from masterd.upkeep.space_keeper import SpaceKeeper
from nodestore.cluster.election import TakeoverWon
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
from nodestore.support.tasks import run_until_first_ends
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_UPKEEP_DELAY_S = 0.1
"""After so long a new leader begins to look after the store: commands that have waited for its term go first."""
_HANDOVER_S = 6.0
_HUNG_THREADS_MAX = 4
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
        won: TakeoverWon,
        replica: Replica,
        cluster_view: ClusterView,
        application: Application,
        settings: LeaderSettings,
        space_keeper: SpaceKeeper | None = None,
        timeline: Timeline | None = None,
        warm_start: WarmStart | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd, self._keys, self._master, self._won = etcd, keys, master, won
        self._replica, self._cluster_view, self._settings, self._space_keeper = (
            replica,
            cluster_view,
            settings,
            space_keeper,
        )
        self.fence = won.fence
        self._warm_start = warm_start
        self._takeover_record = TakeoverRecord(etcd, keys, won.fence, timeline or Timeline())
        self.serving = asyncio.Event()
        self._read_index = ReadIndex(etcd, keys, won.fence)
        self._queue: deque[Submission] = deque()
        self._limited_log = RateLimitedLog(log)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._end_reason: LeadershipLost | None = None
        self._had_request = False
        """Whether a client has asked for anything in this term."""
        self._handovers = 0
        self._accepting = asyncio.Event()
        self._accepting.set()
        self._committer = Committer(etcd, keys, won, replica, application, settings, wall_clock)
        self._config_adopter = ConfigAdopter(
            etcd, keys, cluster_view, replica, self._committer, settings.derive_timeout_s
        )
        self._node_events = NodeEvents(cluster_view, application, won.fence.term.epoch, self._wake.set)
        self._hung_commands: set[str] = set()
        self._action_closer = ActionCloser(
            etcd, keys, self._node_events, replica, self._committer, settings.derive_timeout_s, self._wake.set
        )
        self._retention = JournalRetention(
            won.fence, replica, self._committer.publisher, settings.retention, wall_clock
        )
        self._challenge_responder = ChallengeResponder(etcd, keys, won.fence, cluster_view)
        self.archive = SnapshotArchive(won.fence, self._retention)

    @property
    def config_rejection(self) -> tuple[int, str] | None:
        """config/current's mod_revision and why it is not adopted."""
        return self._config_adopter.rejection

    @property
    def has_ended(self) -> bool:
        """Whether this term is known to be over."""
        return self._end_reason is not None

    @property
    def stuck_s(self) -> float:
        """For how long something that etcd has to agree to has been under way; 0 when nothing is."""
        since = [at for at in (self._committer.journal.open_since, self._read_index.open_since) if at is not None]
        return time.monotonic() - min(since) if since else 0.0

    # --- what callers use ---

    async def submit(self, requests: Sequence[CommandRequest]) -> list[CommandOutcome]:
        """Run commands in this order; their outcomes, once committed. Errors of single ones are in their outcomes.

        LeadershipLost or Unavailable: none of them was run. OutcomeUnknown outcomes: repeat with the same id.
        """
        await self._wait_accepting()
        if (full := self._space_refusal()) is not None:
            raise full
        if len(self._queue) + len(requests) > self._settings.queue_max:
            raise Unavailable(f"{len(self._queue)} commands are waiting already; try again in a moment")
        if not requests:
            return []
        self._note_client_request()
        answers = SubmissionGroup(len(requests))
        self._queue.extend([Submission(request, answers, position) for position, request in enumerate(requests)])
        self._wake.set()
        return await answers.all_resolved

    async def confirm_read(self) -> None:
        """For a client: return once memory holds everything that was committed before this call, the term being ours
        still."""
        self._note_client_request()
        await self.verify_leader()
        self._note_client_answer()

    async def verify_leader(self) -> None:
        """The same for ourselves."""
        self._raise_if_ended()
        begun = time.monotonic()
        try:
            index = await self._read_index.confirm()
        except LeadershipLost as error:
            self._mark_ended(error)
            raise
        await self._replica.wait_for(index, 5.0)
        self._replica.up_to_date_at = max(self._replica.up_to_date_at, begun)

    def _note_client_request(self) -> None:
        if self.serving.is_set():
            self._takeover_record.mark("found")
        self._had_request = True

    def _note_client_answer(self) -> None:
        """A client. Reads from what it caught up with may come before it serves; they do not show that it works."""
        if self.serving.is_set():
            self._takeover_record.mark("first_answer")

    def close_for_handover(self) -> None:
        """Take no more commands for now: those that wait are finished, those that come wait for how it ends."""
        self._handovers += 1
        self._accepting.clear()

    def reopen(self) -> None:
        """The handover came to nothing: go on, unless another one is under way."""
        self._handovers -= 1
        if self._handovers == 0:
            self._accepting.set()

    async def wait_drained(self) -> None:
        """Until nothing waits any more. LeadershipLost when the term ended before."""
        while self._queue or not self._idle.is_set():
            await self._idle.wait()
            await asyncio.sleep(0)
        self._raise_if_ended()

    def _space_refusal(self) -> NoSpace | None:
        """Why etcd has no room for commands; None when it has."""
        return None if self._space_keeper is None else self._space_keeper.refusal()

    async def _wait_accepting(self) -> None:
        """Returns when commands are taken; LeadershipLost when they never will be again."""
        if not self._accepting.is_set() and not await set_within(self._accepting, _HANDOVER_S):
            raise LeadershipLost("this master is handing leadership over")
        self._raise_if_ended()

    def _raise_if_ended(self) -> None:
        if self._end_reason is not None:
            raise LeadershipLost(str(self._end_reason))

    # --- the term ---

    async def run(self) -> None:
        """Lead until the term is over: LeadershipLost. Garbage when the store holds what stops commits."""
        unsubscribe = self._cluster_view.subscribe(self._on_cluster_change)
        deaf = self._node_events.start_listening()
        space = asyncio.get_running_loop().call_later(_UPKEEP_DELAY_S, self._start_space_upkeep)
        try:
            if not await self._load_specs():
                await self._respec()
            await self._action_closer.close_before_epoch(self.fence.term.epoch)
            committer = self._committer
            await committer.publisher.finish_views(
                self._won.applied, self._replica.state, committer.spec_deriver, self._settings.txn_budget(0)
            )
            await self._config_adopter.adopt(self._won.config)
            self.serving.set()
            self._takeover_record.mark("serving")
            if self._had_request:  # it has waited for this
                self._takeover_record.mark("found")
            self._on_cluster_change()
            await run_until_first_ends(
                commit=self._commit_loop(),
                housekeeping=self._run_retention(),
                answers=self._challenge_responder.run(),
                chronicle=self._takeover_record.write_after_first_answer(),
            )
        finally:
            unsubscribe()
            deaf()
            space.cancel()
            if self._space_keeper is not None:
                self._space_keeper.set_journal_owner(None)
            self._end(LeadershipLost(f"{self._master} no longer leads"))
            self._committer.worker.close()
            await self._read_index.close()

    def _mark_ended(self, error: LeadershipLost) -> None:
        """Nothing of this term lands any more; known before anybody is told, who then asks its successor."""
        self._end_reason = self._end_reason or error
        self._wake.set()

    def _fail_all(self, asked: Iterable[Submission], error: NodectlError) -> None:
        """Tell them what etcd has come back with."""
        if isinstance(error, LeadershipLost):
            self._mark_ended(error)
        for waiting in asked:
            waiting.fail(error)

    def _end(self, error: LeadershipLost) -> None:
        self.serving.clear()
        self._end_reason = error
        self._accepting.set()
        while self._queue:
            self._queue.popleft().fail(LeadershipLost(str(error)))
        self._idle.set()

    def _on_cluster_change(self) -> None:
        """Something changed in etcd: a new leader ends the term, a new configuration is work."""
        seen, ours = self._cluster_view.leader, self.fence.term.revision
        # The watch may still show what was before our term; an absent key counts only after it has shown ours.
        if seen.revision > ours or (seen.revision == 0 and self._cluster_view.last_leader.revision >= ours):
            self._mark_ended(LeadershipLost(f"{seen.record.id if seen.record else 'somebody'} leads now"))
        self._wake.set()

    async def _commit_loop(self) -> None:
        while True:
            if self._end_reason is not None:
                raise self._end_reason
            self._idle.clear()
            self._queue_node_events()
            if self._config_adopter.is_due(self._cluster_view.config):
                await self._config_adopter.adopt(self._cluster_view.config)
            elif self._action_closer.has_expired_actions:  # before what waits: something may always wait
                await self._action_closer.expire_actions()
            elif self._queue:
                await self._commit_batch()
            else:
                self._idle.set()
                self._wake.clear()
                await set_within(self._wake, self._action_closer.next_expiry_in_s)

    def _queue_node_events(self) -> None:
        """What nodes did goes before what waits: it is little, and it is late already."""
        if self._space_refusal() is None:
            self._queue.extendleft(reversed(self._action_closer.take_submissions()))

    async def _load_specs(self) -> bool:
        """Know what the nodes must be, if that is not known yet; whether it is what the state has recorded."""
        try:
            ahead = await self._warm_start.take(self._replica.state) if self._warm_start is not None else None
        except HungError as error:
            raise TermBroken(f"the application does not say what the nodes must be: it {error}") from None
        if ahead is None:
            return await self._committer.rebuild_specs()
        self._committer.use_prepared_specs(ahead)
        return ahead.matches_recorded

    def _start_space_upkeep(self) -> None:
        if self._space_keeper is not None:
            self._space_keeper.set_journal_owner(self._retention, self._wake.set)

    async def _run_retention(self) -> None:
        await asyncio.sleep(_UPKEEP_DELAY_S)
        await self._retention.run()

    async def _respec(self) -> None:
        """Where this program derives other specs than the recorded ones, commit that first. Its views are left to
        `finish`: until then `applied` must not say that all views are as of its index."""
        nonce = self.fence.nonce
        batch, record = await self._committer.run_batch(
            lambda batch, _: batch.respec(self._master, nonce), self._settings.derive_timeout_s
        )
        if record is not None:
            await self._committer.commit(batch, publish=False)
            log.info("this program derives other specs for %s: recorded as index %d", record.result, record.index)

    # --- commands ---

    async def _commit_batch(self) -> None:
        if self._queue[0].request.name == SNAPSHOT_RESTORE:
            waiting = self._queue.popleft()
            await self._commit_restore(waiting)
            return
        asked = self._next_batch()
        if not asked:
            return
        try:
            batch, outcomes = await self._committer.run_batch(
                lambda batch, progress: _run_all(batch, progress, asked), self._settings.handler_timeout_s,
                inline=self._committer.may_run_inline([waiting.request for waiting in asked]),
            )  # fmt: skip
        except HungError as error:
            await self._refuse_hung(asked[error.step], error)
            return
        for _ in outcomes:
            self._queue.popleft()
        await self._commit_outcomes(batch, list(zip(asked, outcomes, strict=False)))

    def _next_batch(self) -> list[Submission]:
        """What waits, as much as may go into one batch. What has hung before is refused while too much still hangs."""
        asked: list[Submission] = []
        refuse = self._hung_commands if self._committer.worker.hung_count >= _HUNG_THREADS_MAX else frozenset[str]()
        known = self._replica.state.ids  # a repeat is not run: it gets what it came to
        for waiting in islice(self._queue, self._settings.commands_per_batch):
            request = waiting.request
            if request.name == SNAPSHOT_RESTORE or (request.name in refuse and request.id not in known):
                break
            asked.append(waiting)
        if not asked:
            waiting = self._queue.popleft()
            waiting.fail(NodectlError(
                f"command {waiting.request.name} was not run: {self._committer.worker.hung_count} handlers of this "
                "application hang, of this command too"
            ))  # fmt: skip
        return asked

    async def _refuse_hung(self, waiting: Submission, error: HungError) -> None:
        """Its caller gets an error; the others of its batch are run again, as nothing of it counts."""
        name = waiting.request.name
        log.error("command %s of %s %s: it is given up", name, waiting.request.actor, error)
        self._hung_commands.add(name)
        self._queue.remove(waiting)
        try:
            await self._read_index.confirm()
        except NodectlError as lost:
            self._fail_all([waiting], lost)
            if isinstance(lost, LeadershipLost | Garbage):
                raise
            return
        except BaseException:
            waiting.fail(LeadershipLost("this master was stopped before it could say that it had done nothing"))
            raise
        waiting.fail(NodectlError(f"command {name} {error} in the application: nothing of it was done"))

    async def _commit_restore(self, waiting: Submission) -> None:
        """A restore goes alone: its documents come from etcd, and its entry only names their snapshot."""
        try:
            batch, outcome = await self._run_restore(waiting.request)
        except LeadershipLost as error:
            self._fail_all([waiting], error)
            raise
        except BaseException:
            waiting.fail(LeadershipLost("this master was stopped before it restored anything"))
            raise
        await self._commit_outcomes(batch, [(waiting, outcome)])
        self._retention.pinned.clear()  # the journal names it now, or nothing ever will

    async def _run_restore(self, request: CommandRequest) -> tuple[Batch | None, CommandOutcome]:
        try:
            name, documents = await self.archive.prepare_restore(request.args)
            return await self._committer.run_batch(
                lambda batch, _: batch.restore(request, name, documents), self._settings.derive_timeout_s
            )
        except (LeadershipLost, TermBroken):
            raise
        except HungError as error:
            return None, CommandOutcome(
                request.id, error=NodectlError(f"{SNAPSHOT_RESTORE} {error} in the application")
            )
        except NodectlError as error:
            return None, CommandOutcome(request.id, error=error)

    async def _commit_outcomes(self, batch: Batch | None, taken: Sequence[tuple[Submission, CommandOutcome]]) -> None:
        def answer() -> None:
            if any(isinstance(waiting.sink, SubmissionGroup) for waiting, _ in taken):  # else it was this leader's own
                self._note_client_answer()
            for waiting, outcome in taken:
                waiting.resolve(outcome)

        try:
            if batch is not None and batch.records:
                await self._committer.commit(batch, on_landed=answer)
            else:
                await self._read_index.confirm()
                answer()
        except NodectlError as error:
            self._fail_all([waiting for waiting, _ in taken], error)
            if isinstance(error, LeadershipLost | OutcomeUnknown | Garbage):
                raise
            self._limited_log.log(
                logging.WARNING, f"a batch of {len(taken)} commands was not committed: {error}", about=error.code
            )
        except BaseException:
            for waiting, _ in taken:
                waiting.fail(OutcomeUnknown("this master was stopped while committing it: it may have been"))
            raise


def _run_all(batch: Batch, progress: JobProgress, asked: Sequence[Submission]) -> list[CommandOutcome]:
    """The outcomes of as many as fit."""
    outcomes: list[CommandOutcome] = []
    for step, waiting in enumerate(asked):
        progress.begin_step(step)
        outcome = batch.execute(waiting.request)
        if outcome is None:
            break
        outcomes.append(outcome)
    return outcomes
