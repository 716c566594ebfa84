"""The leader of one term: group commit, adoption of the configuration, and node events. One task commits; callers wait.

The steps of a commit, and what a crash after each of them leaves behind:

1. A batch runs on an overlay. A crash loses nothing, because no caller has an answer yet.
2. One transaction commits the entry and `head`, and the views if they fit into it. After a crash the next leader has
   the entry, and a repeat of a command gets its first result.
3. Callers get their outcomes, and the entry is applied to the replica in memory. No outcome precedes the commit. An
   error in this step or the next one is not reported to callers; it ends the term.
4. Views that did not fit are written in chunks before the next commit. Each chunk compares and updates the key
   `applied`, which records how far the views are written. After a crash the next leader finishes them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from masterd.application.worker import HungError
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.committer import LeaderSettings
from masterd.term.parts import TermParts
from nodestore.errors import LeadershipLost, NodectlError
from nodestore.etcd.session import cmp_mod
from nodestore.support.tasks import run_until_first_ends
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_UPKEEP_DELAY_S = 0.1
"""Retention and space upkeep start this long after the term began, so that commands that waited for it run first."""
_CATCH_UP_S = 5.0

__all__ = ["Leader", "LeaderSettings"]


class Leader:
    """Leads for one term. parts: created by `build_term_parts`. `run` never returns; it ends by raising an error."""

    def __init__(self, parts: TermParts) -> None:
        self._parts = parts
        self._replica, self._cluster_view, self._settings = parts.replica, parts.cluster_view, parts.settings
        self._wake, self._term_end, self._queue = parts.wake, parts.term_end, parts.queue
        self._committer, self._read_index = parts.committer, parts.read_index
        self._takeover_record, self._retention = parts.takeover_record, parts.retention
        self.fence, self.serving, self.archive = parts.won.fence, parts.serving, parts.archive

    @property
    def config_rejection(self) -> tuple[int, str] | None:
        """The mod_revision of `config/current` and why it was rejected; None if it was not."""
        return self._parts.config_adopter.rejection

    @property
    def spec_failures(self) -> Mapping[str, str]:
        """By node: why its spec cannot be derived. Such a node keeps its last order."""
        return self._committer.spec_deriver.failed

    @property
    def time_problem(self) -> str | None:
        """Why an operator should set the cluster's time; None if it is right."""
        return self._committer.clock.problem

    @property
    def view_problem(self) -> str | None:
        """Why not all views are written; None if they are."""
        return self._committer.publisher.problem

    @property
    def store_repairs(self) -> list[str]:
        """What this leader has written again lately because another program deleted or changed it in etcd."""
        return self._parts.store_repair.reports

    @property
    def has_ended(self) -> bool:
        """Whether this term is known to be over."""
        return self._term_end.reason is not None

    @property
    def stuck_s(self) -> float:
        """Seconds for which the oldest open commit or confirmation of the term has waited for etcd; 0 without one."""
        since = [at for at in (self._committer.journal.open_since, self._read_index.open_since) if at is not None]
        return time.monotonic() - min(since) if since else 0.0

    # --- for callers ---

    @property
    def overload(self) -> NodectlError | None:
        """Why no command can be accepted now; None if one can."""
        return self._queue.overload

    async def submit(
        self,
        requests: Sequence[CommandRequest],
        *,
        deadline: float = math.inf,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[CommandOutcome]:
        """Run commands in this order; return their outcomes once committed. An outcome holds its command's error.

        deadline: until when the caller waits, by the monotonic clock. is_wanted: returns False once the caller is gone.
        A command that has not begun when the caller stops waiting is not run: its error is Unavailable.
        Raises LeadershipLost, Unavailable or NoSpace if no command was run. After an OutcomeUnknown outcome, repeat the
        command with the same id.
        """
        outcomes = await self._queue.submit(requests, deadline=deadline, is_wanted=is_wanted)
        return await self._parts.result_recall.complete(outcomes)

    async def confirm_read(self, *, include_view: bool = False) -> None:
        """Do what `verify_leader` does, for a client's read, and record the read in the timeline of the takeover.

        include_view: the read also uses the cluster view, so that must hold everything written before this call too.
        """
        self._takeover_record.note_request()
        await self.verify_leader()
        if include_view:
            await self._cluster_view.bring_up_to(self._read_index.revision)
        self._takeover_record.note_answer()

    async def verify_leader(self) -> None:
        """Confirm the term, and wait until memory holds everything that was committed before this call.

        After this, a read from memory is linearizable. Raises LeadershipLost if the term is over, Unavailable if etcd
        does not answer, Garbage if `head` is unreadable, TimedOut if memory has not caught up after 5 s.
        """
        self._raise_if_ended()
        started = time.monotonic()
        try:
            index = await self._read_index.confirm()
        except LeadershipLost as error:
            self._term_end.mark(error)
            raise
        await self._replica.wait_for(index, _CATCH_UP_S)
        self._replica.up_to_date_at = max(self._replica.up_to_date_at, started)

    def _raise_if_ended(self) -> None:
        self._term_end.raise_if_ended()

    def close_for_handover(self) -> None:
        """Hold back new commands. Queued ones are still committed; new ones wait for the end of the handover."""
        self._queue.close_for_handover()

    def reopen(self) -> None:
        """Accept commands again after a failed handover, unless another handover is in progress."""
        self._queue.reopen()

    async def wait_drained(self) -> None:
        """Wait until no command is queued or being committed. Raises LeadershipLost if the term ended before."""
        await self._queue.wait_drained()

    # --- the term ---

    async def run(self) -> None:
        """Lead until the term ends.

        Raises LeadershipLost if another masterd leads, OutcomeUnknown if the term ended during a commit that may have
        landed, TermBroken if the term must be given up, Garbage if the store holds data that makes commits impossible,
        or the error with which etcd refused a request.
        """
        unsubscribe = self._cluster_view.subscribe_but_nodes(self._on_cluster_change)
        stop_listening = self._parts.node_events.start_listening()
        space_upkeep = asyncio.get_running_loop().call_later(_UPKEEP_DELAY_S, self._start_space_upkeep)
        try:
            await self._prepare()
            self.serving.set()
            self._takeover_record.note_serving()
            self._on_cluster_change()
            await run_until_first_ends(
                commit=self._commit_loop(),
                retention=self._run_retention(),
                challenges=self._parts.challenge_responder.run(),
                removed_nodes=self._parts.removed_nodes.run(),
                repair=self._parts.store_repair.run(),
                record=self._takeover_record.write_after_first_answer(),
                hung_nodes=self._parts.hung_nodes.run(),
            )
        finally:
            unsubscribe()
            stop_listening()
            space_upkeep.cancel()
            if self._parts.space_keeper is not None:
                self._parts.space_keeper.set_journal_owner(None)
            self._end(LeadershipLost(f"{self._parts.master} no longer leads"))
            await self._committer.close()
            await self._read_index.close()

    async def _prepare(self) -> None:
        """Bring specs, actions, views and configuration up to date, before the first command is run."""
        parts = self._parts
        await parts.store_repair.begin_term(parts.won.head)
        await self._record_application()
        if not await self._load_specs():
            await self._respec()
        await parts.action_closer.close_before_epoch(self.fence.term.epoch)
        await self._committer.publisher.finish_views(
            parts.won.applied, self._replica.state, self._committer.spec_deriver, self._settings.txn_budget(0)
        )
        await parts.config_adopter.adopt(parts.won.config)

    async def _record_application(self) -> None:
        """Record this application at once if the journal names none, or one that an operator has replaced.

        Later entries would record it too, but an idle leader may die before it commits one. Then a masterd with any
        application could take over. In an empty journal there is nothing to protect yet.
        """
        name = self._committer.application_to_record
        if name is None or self._replica.state.index == 0:
            return
        order = await self._parts.etcd.get(self._parts.keys.application)
        batch, _ = await self._committer.run_batch(
            lambda batch, _: batch.record_application(name, self._parts.master, self.fence.nonce),
            self._settings.derive_timeout_s,
        )
        # The compare makes a later order of an operator win: this commit fails, and the term is given up.
        unchanged = cmp_mod(self._parts.keys.application, order.mod_revision if order is not None else 0)
        await self._committer.commit(batch, (unchanged,), publish=False)

    async def _load_specs(self) -> bool:
        """Use the specs of the warm start, or derive all now; return whether they equal those recorded in the state."""
        warm_start = self._parts.warm_start
        prepared = await warm_start.take(self._replica.state) if warm_start is not None else None
        if prepared is None:
            return await self._committer.rebuild_specs()
        self._committer.use_specs(prepared.specs)
        return prepared.specs.matches_recorded

    async def _respec(self, *, publish: bool = False) -> None:
        """Commit all specs that differ from the recorded ones, for example after an upgrade of the application.

        publish: if False, `finish_views` writes the views of this commit. If the commit wrote them itself at the start
        of a term, `applied` would claim that all views are complete, although the previous leader may have left some
        unfinished.
        """
        nonce = secrets.token_hex(8)
        try:
            batch, record = await self._committer.run_batch(
                lambda batch, _: batch.respec(self._parts.master, nonce), self._settings.derive_timeout_s
            )
        except (
            HungError
        ) as error:  # although all were derived a moment ago: the next term, or a change of the node, tries again
            log.error("specs that differ are not recorded: the application %s", error)
            return
        if record is not None:
            await self._committer.commit(batch, publish=publish)
            nodes = ", ".join(record.result["nodes"])
            log.info("the specs of nodes %s differ from the recorded ones: recorded as index %d", nodes, record.index)

    async def _commit_loop(self) -> None:
        parts = self._parts
        while True:
            if self._term_end.reason is not None:
                raise self._term_end.reason
            self._queue.set_idle(False)
            self._queue_node_events()
            if parts.config_adopter.is_due(self._cluster_view.config):
                await parts.config_adopter.adopt(self._cluster_view.config)
            elif parts.action_closer.has_expired_actions:  # before the queue, which may never be empty
                await parts.action_closer.expire_actions()
            elif parts.result_forgetter.check():
                await parts.result_forgetter.forget()
            elif parts.store_repair.is_due:
                await parts.store_repair.repair()
            elif parts.hung_nodes.respec_due:
                parts.hung_nodes.respec_due = False
                await self._respec(publish=True)
            elif self._queue:
                await parts.batch_runner.run_next()
            else:
                self._queue.set_idle(True)
                self._wake.clear()
                due = (parts.action_closer.next_expiry_in_s, parts.result_forgetter.next_check_in_s)
                await set_within(self._wake, min((at for at in due if at is not None), default=None))

    def _queue_node_events(self) -> None:
        """Queue the commands for node events before all others: they are few, and must not wait for a long queue.

        While etcd has no room for commands, the events stay collected and are not queued.
        """
        if not self._parts.action_closer.may_have_events:
            return
        if self._parts.space_keeper is None or self._parts.space_keeper.refusal() is None:
            self._queue.prepend(self._parts.action_closer.take_submissions())

    def _on_cluster_change(self) -> None:
        """Wake the commit loop, as there may be a new configuration. A new leader ends the term."""
        seen, ours = self._cluster_view.leader, self.fence.term.revision
        # The watch may lag behind our takeover. So an absent `leader` ends the term only if the watch has already shown
        # our term.
        if seen.revision > ours or (seen.revision == 0 and self._cluster_view.last_leader.revision >= ours):
            self._term_end.mark(LeadershipLost(f"{seen.record.id if seen.record else 'another master'} leads now"))
        self._wake.set()

    def _start_space_upkeep(self) -> None:
        if self._parts.space_keeper is not None:
            self._parts.space_keeper.set_journal_owner(self._retention, self._wake.set)

    async def _run_retention(self) -> None:
        await asyncio.sleep(_UPKEEP_DELAY_S)
        await self._retention.run()

    def _end(self, error: LeadershipLost) -> None:
        self.serving.clear()
        self._term_end.close(error)
        self._queue.close(error)
