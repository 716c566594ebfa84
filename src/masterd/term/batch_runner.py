"""Takes commands from the queue, runs them as one batch, commits it and reports the outcomes (group commit)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from masterd.application.worker import HungError, JobProgress
from masterd.replication.replica import Replica
from masterd.state_machine.batch import ALONE, SNAPSHOT_RESTORE, Batch, CommandOutcome
from masterd.term.command_queue import CommandQueue
from masterd.term.committer import Committer, LeaderSettings
from masterd.term.read_index import ReadIndex
from masterd.term.restore import SnapshotRestorer
from masterd.term.submissions import Submission, SubmissionGroup
from masterd.term.takeover_record import TakeoverRecord
from masterd.term.term_end import TermEnd
from nodestore.errors import Garbage, LeadershipLost, NodectlError, OutcomeUnknown
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_HUNG_THREADS_MAX = 4
"""While this many handlers hang in their threads, commands whose handlers have hung before are refused, not run."""


class BatchRunner:
    """Commits the queued commands of one term, one batch at a time."""

    def __init__(
        self,
        queue: CommandQueue,
        committer: Committer,
        read_index: ReadIndex,
        restorer: SnapshotRestorer,
        replica: Replica,
        takeover_record: TakeoverRecord,
        term_end: TermEnd,
        settings: LeaderSettings,
    ) -> None:
        self._queue, self._committer, self._read_index, self._restorer = queue, committer, read_index, restorer
        self._replica, self._takeover_record, self._term_end = replica, takeover_record, term_end
        self._settings = settings
        self._hung_commands: set[str] = set()
        """Names of commands whose handlers have hung in this term."""
        self._limited_log = RateLimitedLog(log)

    async def run_next(self) -> None:
        """Run, commit and answer the next commands of the queue; at least one must be queued.

        Raises LeadershipLost, OutcomeUnknown and Garbage, which end the term. Other errors become outcomes.
        """
        name = self._queue.first.request.name
        if name in ALONE:
            submission = self._queue.pop_first()
            submission.is_running = True
            await (self._run_restore(submission) if name == SNAPSHOT_RESTORE else self._run_time_reset(submission))
            return
        submissions = self._take_batch()
        if not submissions:
            return
        outcomes: list[CommandOutcome] = []
        has_most_commands, begun = len(submissions) >= self._committer.pace.commands, time.monotonic()
        try:
            batch, outcomes = await self._committer.run_batch(
                lambda batch, progress: _run_all(batch, progress, submissions), self._settings.handler_timeout_s,
                inline=self._committer.may_run_inline([submission.request for submission in submissions]),
            )  # fmt: skip
        except HungError as error:
            self._put_back(submissions)
            await self._refuse_hung(submissions[error.step], error)
            return
        except BaseException:
            self._put_back(submissions)
            raise
        self._committer.pace.note_run(len(outcomes), time.monotonic() - begun)
        was_full = has_most_commands or len(outcomes) < len(submissions)
        self._put_back(submissions[len(outcomes) :])
        await self._commit_outcomes(batch, list(zip(submissions, outcomes, strict=False)))
        self._committer.pace.note_batch(len(outcomes), time.monotonic() - begun, was_full)

    def _put_back(self, submissions: Sequence[Submission]) -> None:
        """Return commands that were taken but not run to the front of the queue."""
        for submission in submissions:
            submission.is_running = False
        self._queue.prepend(submissions)

    def _take_batch(self) -> list[Submission]:
        """Remove and return the queued commands that fit into one batch. Those that no caller waits for are dropped.

        A restore or a reset of the time ends the batch, because it is a batch of its own. While too many handlers hang,
        a command whose handler has hung before ends the batch too; if such a command is the first, it is refused.
        """
        submissions: list[Submission] = []
        hung_count = self._committer.worker.hung_count
        refused = self._hung_commands if hung_count >= _HUNG_THREADS_MAX else frozenset[str]()
        known_ids = self._replica.state.ids  # a repeat does not run: it gets the first result
        now, limit = time.monotonic(), self._committer.pace.commands
        while self._queue and len(submissions) < limit:
            submission, request = self._queue.first, self._queue.first.request
            if submission.is_over(now):
                self._queue.pop_first().give_up()
                continue
            if request.name in ALONE or (request.name in refused and request.id not in known_ids):
                break
            submission.is_running = True
            submissions.append(self._queue.pop_first())
        if not submissions and self._queue and self._queue.first.request.name not in ALONE:
            submission = self._queue.pop_first()
            submission.fail(NodectlError(
                f"command {submission.request.name} was not run: {hung_count} handlers of this application hang, and "
                "this command's handler has hung before"
            ))  # fmt: skip
        return submissions

    async def _refuse_hung(self, submission: Submission, error: HungError) -> None:
        """Fail a command whose handler hangs. The others of its batch stay queued and run again."""
        name = submission.request.name
        log.error(
            "command %s of %s %s; it is refused, and its thread is abandoned", name, submission.request.actor, error
        )
        self._hung_commands.add(name)
        self._queue.remove(submission)
        try:
            await self._read_index.confirm()  # a deposed leader must not report a refusal
        except NodectlError as confirm_error:
            self._fail_all([submission], confirm_error)
            if isinstance(confirm_error, LeadershipLost | Garbage):
                raise
            return
        except BaseException:
            submission.fail(LeadershipLost("this master was stopped before it could confirm that nothing was done"))
            raise
        submission.fail(NodectlError(f"command {name} {error} in the application: nothing of it was done"))

    async def _run_restore(self, submission: Submission) -> None:
        """Run and commit a restore as a batch of its own.

        Unlike other commands, its documents are read from etcd, and its entry only names the snapshot that holds them.
        """
        try:
            batch, outcome = await self._restorer.run(submission.request)
        except LeadershipLost as error:
            self._fail_all([submission], error)
            raise
        except BaseException:
            submission.fail(LeadershipLost("this master was stopped before it restored anything"))
            raise
        await self._commit_outcomes(batch, [(submission, outcome)])
        self._restorer.release()

    async def _run_time_reset(self, submission: Submission) -> None:
        """Set the cluster's time to the clocks of its PCs, as a batch of its own."""
        request, target = submission.request, self._committer.clock.target_time
        batch: Batch | None = None
        try:
            batch, outcome = await self._committer.run_batch(
                lambda batch, _: batch.reset_time(request, target), self._settings.handler_timeout_s, inline=True
            )
        except NodectlError as error:
            outcome = CommandOutcome(request.id, error=error)
        except BaseException:
            submission.fail(LeadershipLost("this master was stopped before it set the time"))
            raise
        await self._commit_outcomes(batch, [(submission, outcome)])

    async def _commit_outcomes(
        self, batch: Batch | None, outcomes: Sequence[tuple[Submission, CommandOutcome]]
    ) -> None:
        """Commit the batch, then report the outcomes.

        If the batch has no records, there is nothing to commit. Then the term is confirmed before the report.
        """

        def report() -> None:
            if any(isinstance(submission.sink, SubmissionGroup) for submission, _ in outcomes):  # from a client
                self._takeover_record.note_answer()
            for submission, outcome in outcomes:
                submission.resolve(outcome)

        try:
            if batch is not None and batch.records:
                await self._committer.commit(batch, on_landed=report)
            else:
                await self._read_index.confirm()
                report()
        except NodectlError as error:
            self._fail_all([submission for submission, _ in outcomes], error)
            if isinstance(error, LeadershipLost | OutcomeUnknown | Garbage):
                raise
            self._limited_log.log(
                logging.WARNING, f"a batch of {len(outcomes)} commands was not committed: {error}", about=error.code
            )
        except BaseException:
            for submission, _ in outcomes:
                submission.fail(OutcomeUnknown("this master was stopped during the commit: it may be committed"))
            raise

    def _fail_all(self, submissions: Iterable[Submission], error: NodectlError) -> None:
        """Fail these commands. LeadershipLost is noted first, so that their callers go on to the next leader."""
        if isinstance(error, LeadershipLost):
            self._term_end.mark(error)
        for submission in submissions:
            submission.fail(error)


def _run_all(batch: Batch, progress: JobProgress, submissions: Sequence[Submission]) -> list[CommandOutcome]:
    """Run commands until the batch is full or out of time, but at least one; return the outcomes of those that fit."""
    outcomes: list[CommandOutcome] = []
    for step, submission in enumerate(submissions):
        progress.begin_step(step)
        if outcomes and progress.is_out_of_time:
            break
        outcome = batch.execute(submission.request)
        if outcome is None:
            break
        outcomes.append(outcome)
    return outcomes
