"""The pipeline of commands to the leader: sends them in requests of many, and retries until each has an answer.

**Exactly once.** A command keeps its id and its `after` over all attempts. `after` is the index known when the command
was first sent. A leader that no longer remembers ids that far back refuses the command instead of running it twice.

The leader remembers a limited number of bytes of results: under load, those of some minutes. So the index for a first
attempt is at most a second old; an older one is fetched again. If the leader nevertheless refuses the very first
attempt as too old, no attempt can have taken effect, and the command is sent again with a new `after`. This relies on a
rule: a master that may already have forwarded a request never answers that it is too old
(`masterd/api/leader_routing.py`).

**Poison.** A command that kills every leader that runs it must not kill one master after another. A leader counts as
lost under a command if a request with that command got no answer and a newer term then began, other than by
resignation or switchover. The second such loss ends the command with CommandOutcomeUnknown. The caller may then ask for
the outcome, which does not run the command (`methods/outcomes.py`).

Commands that were only in the same request, or in flight at the same time, must not be blamed. So after its first loss
a command is *quarantined*: it is sent alone, with nothing else of this client in flight. If that leader is lost too, no
other command of this client can be the cause. The price: after a leader is lost, the commands that were in flight (at
most two requests) are sent one by one. Commands that only waited are sent together again. A request that certainly
reached no master (connection refused) is no reason for blame.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nodectl.client.connection.backoff import backoff, requested_pause_s
from nodectl.client.connection.deadlines import Deadlines
from nodectl.client.connection.errors import Broken, CommandOutcomeUnknown
from nodectl.client.connection.http import Http, from_problem
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.requests import SLOW_S, LeaderSuperseded
from nodectl.client.connection.results import CommandResult
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import (
    Garbage,
    Invalid,
    NodectlError,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    TooLarge,
    TooOld,
    Unavailable,
)
from nodestore.schema.models import Term
from nodestore.support.tasks import background_task
from nodestore.support.waiting import set_within

BATCH_COMMANDS_MAX = 256
BATCH_BYTES_MAX = 512 << 10
IN_FLIGHT_MAX = 2
WAITING_MAX = 4096
LOSSES_MAX = 2
_ATTEMPT_S = 5.0
_INDEX_AGE_MAX_S = 1.0


@dataclass(slots=True, eq=False)
class PendingCommand:
    """A command that has no answer yet."""

    id: str
    after: int | None  # None until it is first sent, unless its caller gave one
    body: bytes  # the JSON object without `after` and without the closing brace
    answer: asyncio.Future[CommandResult]
    limit_s: float  # for messages: within how many seconds its caller wanted the answer
    is_after_given: bool = False
    maybe_received: bool = False
    send_alone: bool = False
    resent: bool = False  # with a new `after`, because its first attempt was refused as too old
    unanswered_by: Leader | None = None  # the leader that did not answer the last attempt
    lost_leaders: list[str] = field(default_factory=list)  # leaders lost under this command
    trouble: str = ""  # the last error, for messages
    is_store_full: bool = False  # the last error was that etcd has no space
    ask_s: float = 0.0  # how long before its deadline its caller asks for the outcome, if it may have been received

    @property
    def is_quarantined(self) -> bool:
        return bool(self.lost_leaders)

    def encode(self) -> bytes:
        return self.body + b',"after":%d}' % (self.after or 0)


@dataclass(eq=False)
class _Attempt:
    """A request in flight."""

    leader: Leader
    task: asyncio.Task[None] | None = None
    begun: bool = False
    superseded: bool = False


class Pipeline:
    """The queue of commands and their requests in flight. Callers await `submit`; a task runs `run`."""

    def __init__(self, http: Http, leadership: Leadership, state: ConnectionState) -> None:
        self._http = http
        self._leadership = leadership
        self._state = state
        self._waiting: deque[PendingCommand] = deque()
        self._slots = asyncio.Semaphore(WAITING_MAX)
        self._wake = asyncio.Event()
        self._attempts: set[_Attempt] = set()
        self._quarantined_in_flight = False
        self._index: int | None = None
        self._index_at = 0.0
        self._epoch = 0
        self._pauses = backoff()
        self._not_before = 0.0
        self._last_tried_term: Term | None = None
        self._closed = False
        self._deadlines = Deadlines(self._expire)
        leadership.subscribe(self._leader_changed)

    # --- callers ----------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether no command is accepted any more."""
        return self._closed

    async def submit(
        self, command_id: str, after: int | None, body: bytes, timeout_s: float, *, ask_s: float = 0.0
    ) -> CommandResult:
        """Queue a command and return its result.

        `body`: the command as JSON, without `after` and the closing brace. `ask_s`: if the command may have been
        received, give it up this many seconds earlier, so that its caller can ask for the outcome. Raises Unavailable
        if it was certainly not run within `timeout_s` seconds, CommandOutcomeUnknown if it may have been, or the error
        that the leader sent.
        """
        deadline = time.monotonic() + timeout_s
        if self._closed:
            raise Unavailable("the client is closed")
        if self._slots.locked():
            try:
                async with asyncio.timeout(timeout_s):  # wait_for can lose a cancellation on Python 3.11
                    await self._slots.acquire()
            except TimeoutError:
                raise Unavailable(f"{WAITING_MAX} other commands were waiting; this one was not sent") from None
        else:
            await self._slots.acquire()
        answer: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        pending = PendingCommand(
            command_id, after, body, answer, timeout_s, is_after_given=after is not None, ask_s=ask_s
        )
        self._deadlines.set(pending, max(deadline - time.monotonic() - ask_s, 0.0))
        if len(self._waiting) > 2 * WAITING_MAX:  # drop what timed out; _drop_done sees only the head
            self._waiting = deque(item for item in self._waiting if not item.answer.done())
        self._waiting.append(pending)
        self._wake.set()
        try:
            return await pending.answer
        finally:
            self._deadlines.remove(pending)
            self._slots.release()

    def _expire(self, pending: PendingCommand) -> None:
        if pending.answer.done():
            return
        timeout_s = pending.limit_s
        trouble = pending.trouble or self._leadership.trouble or "no leader was found"
        if pending.maybe_received:
            self._fail(pending, self._unknown_error(pending, f"there was no answer within {timeout_s:g} s: {trouble}"))
        elif pending.ask_s:  # nothing to ask for: go on until the deadline
            ask_s, pending.ask_s = pending.ask_s, 0.0
            self._deadlines.set(pending, ask_s)
        else:
            kind = NoSpace if pending.is_store_full else Unavailable
            self._fail(pending, kind(f"the command was not run within {timeout_s:g} s: {trouble}"))

    def _unknown_error(self, pending: PendingCommand, message: str) -> CommandOutcomeUnknown:
        text = f"command {pending.id} may or may not have taken effect: {message}"
        lost = tuple(pending.lost_leaders) if len(pending.lost_leaders) >= LOSSES_MAX else ()
        return CommandOutcomeUnknown(
            text, command_id=pending.id, after=pending.after or 0, lost_leaders=lost, reason=message
        )

    def _fail(self, pending: PendingCommand, error: NodectlError) -> None:
        if not pending.answer.done():
            pending.answer.set_exception(error)

    # --- the sender -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send commands until cancelled; then fail those without an answer and end all requests."""
        try:
            while True:
                await self._wait_ready()
                leader = self._leadership.leader
                if leader is None or not await self._ensure_index(leader) or self._leadership.leader is not leader:
                    continue
                batch = self._take_batch(leader)
                if batch:
                    self._start(batch, leader)
        finally:
            self._closed = True
            tasks = [attempt.task for attempt in self._attempts if attempt.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._fail_all("the client was closed")
            self._deadlines.close()

    async def _wait_ready(self) -> None:
        """Wait until a command waits, there is a leader, a request may be sent, and the back-off is over."""
        while True:
            self._wake.clear()
            self._drop_done()
            if self._waiting and self._leadership.refusal is not None:
                self._fail_all(str(self._leadership.refusal), type(self._leadership.refusal))
            pause = self._not_before - time.monotonic()
            may_send = bool(self._waiting) and self._leadership.leader is not None and self._may_send()
            if may_send and pause <= 0:
                return
            await set_within(self._wake, pause if may_send else None)

    def _may_send(self) -> bool:
        if self._quarantined_in_flight:
            return False
        if self._waiting[0].is_quarantined or self._waiting[0].unanswered_by is not None:
            return not self._attempts
        return len(self._attempts) < IN_FLIGHT_MAX

    def _drop_done(self) -> None:
        """Remove commands at the head of the queue whose callers were cancelled or timed out."""
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()

    def _take_batch(self, leader: Leader) -> list[PendingCommand]:
        """Take the commands of the next request off the queue: a quarantined one alone, else as many as fit."""
        batch: list[PendingCommand] = []
        size = 0
        while self._waiting and len(batch) < BATCH_COMMANDS_MAX:
            pending = self._waiting[0]
            if pending.answer.done() or self._fail_if_poison(pending, leader):
                self._waiting.popleft()
                continue
            single = pending.is_quarantined or pending.send_alone
            size += len(pending.body)
            if batch and (single or size > BATCH_BYTES_MAX):
                break
            if pending.is_quarantined and self._attempts:
                break
            batch.append(self._waiting.popleft())
            if single:
                break
        for pending in batch:
            if pending.after is None:
                pending.after = self._index
        return batch

    def _fail_if_poison(self, pending: PendingCommand, leader: Leader) -> bool:
        """Decide whether the leader of the last unanswered attempt was lost under this command.

        Return True if LOSSES_MAX leaders were now lost under it: the command has then failed.
        """
        before = pending.unanswered_by
        if before is None or leader.term <= before.term:
            return False
        pending.unanswered_by = None
        if leader.handed_over:
            return False
        pending.lost_leaders.append(f"{before.id} (term {before.term})")
        if len(pending.lost_leaders) < LOSSES_MAX:
            return False
        self._fail(
            pending,
            self._unknown_error(
                pending,
                f"leaders {' and '.join(pending.lost_leaders)} were lost after it was sent to them, so it is not sent "
                "to another one; find out why before you send it again",
            ),
        )
        return True

    async def _ensure_index(self, leader: Leader) -> bool:
        """Fetch the current index unless it is known, is fresh and belongs to this epoch.

        In a restored store it may be lower. Return False, after a back-off, if it cannot be fetched.
        """
        asked_at = time.monotonic()
        is_fresh = asked_at - self._index_at <= _INDEX_AGE_MAX_S or not self._needs_index
        if self._index is not None and leader.term.epoch == self._epoch and is_fresh:
            return True
        try:
            answer = await self._http.call(
                "GET", f"{leader.url}/v1/leader", params={"consistency": "local"}, timeout_s=1.0
            )
            self._note_index(int(answer["index"]), leader, asked_at)
        except (Broken, NodectlError, KeyError, TypeError, ValueError) as error:
            for pending in self._waiting:
                pending.trouble = str(error)
            self._back_off(leader, error)
            return False
        return True

    @property
    def _needs_index(self) -> bool:
        """Whether a command waits that has no `after` yet."""
        return any(pending.after is None for pending in self._waiting)

    def _note_index(self, index: int, leader: Leader, asked_at: float) -> None:
        """Note an index that a leader reported. asked_at: when it was asked, by the monotonic clock."""
        before = self._index if self._index is not None and leader.term.epoch == self._epoch else 0
        self._index, self._epoch = max(before, index), leader.term.epoch
        self._index_at = max(self._index_at, asked_at) if before else asked_at

    # --- one request ------------------------------------------------------------------------------------------------

    def _start(self, batch: list[PendingCommand], leader: Leader) -> None:
        attempt = _Attempt(leader)
        self._attempts.add(attempt)
        self._quarantined_in_flight = batch[0].is_quarantined
        attempt.task = background_task(self._send(attempt, batch), name="send commands")
        attempt.task.add_done_callback(lambda _: self._on_attempt_done(attempt, batch))

    def _on_attempt_done(self, attempt: _Attempt, batch: list[PendingCommand]) -> None:
        """Forget an attempt that ended, and requeue its commands if it never began."""
        # Not in a `finally` of the task: a task that is cancelled before its first step never reaches that.
        self._attempts.discard(attempt)
        self._quarantined_in_flight = False
        if not attempt.begun:
            self._requeue(batch)
        self._wake.set()

    async def _send(self, attempt: _Attempt, batch: list[PendingCommand]) -> None:
        attempt.begun = True
        leader = attempt.leader
        # A command may have timed out since it was taken from the queue. Its caller got Unavailable, so it must not be
        # sent any more.
        batch = [pending for pending in batch if not pending.answer.done()]
        if not batch:
            return
        body = b'{"commands":[' + b",".join([pending.encode() for pending in batch]) + b"]}"
        received_before = [pending.maybe_received for pending in batch]
        for pending in batch:
            pending.maybe_received = True
        sent_at = time.monotonic()
        url = leader.urls[self._pauses.failures % len(leader.urls)] + "/v1/commands"
        slow = asyncio.get_running_loop().call_later(SLOW_S, self._leadership.mark_doubtful)
        try:
            answer = await self._http.call("POST", url, body=body, timeout_s=_ATTEMPT_S)
            self._handle_answer(batch, answer, leader, received_before, sent_at)
        except asyncio.CancelledError:
            if not attempt.superseded:
                self._requeue(batch)  # `run`, which cancels this task, fails them
                raise
            self._handle_no_answer(batch, leader, LeaderSuperseded(leader), received_before)
        except Broken as error:
            self._handle_no_answer(batch, leader, error, received_before)
        except Garbage as error:
            self._handle_no_answer(batch, leader, Broken(str(error), sent=True), received_before)
        except NodectlError as error:
            self._handle_error(batch, leader, error, received_before)
        finally:
            slow.cancel()

    def _handle_answer(
        self,
        batch: list[PendingCommand],
        answer: Any,
        leader: Leader,
        received_before: list[bool],
        sent_at: float,
    ) -> None:
        try:
            results, index = answer["results"], int(answer["index"])
            if len(results) != len(batch):
                raise ValueError(f"{len(results)} results for {len(batch)} commands")
            outcomes = [_outcome(result) for result in results]
        except (KeyError, TypeError, ValueError) as error:
            raise Garbage(f"{leader.url} sent a malformed answer to commands: {error!r}") from None
        if leader.term.epoch == self._epoch:
            self._note_index(index, leader, sent_at)
        self._reset_backoff()
        again = [
            pending
            for pending, outcome, received in zip(batch, outcomes, received_before, strict=True)
            if not self._settle(pending, leader, outcome, received)
        ]
        self._requeue(again)
        if again:
            busy = [outcome for outcome in outcomes if isinstance(outcome, Unavailable) and outcome.retry_after_s]
            self._back_off(leader, max(busy, key=lambda error: error.retry_after_s or 0.0, default=None))

    def _settle(
        self, pending: PendingCommand, leader: Leader, outcome: CommandResult | NodectlError, received_before: bool
    ) -> bool:
        """Give the caller its answer; return False if the command must be sent again."""
        pending.unanswered_by = None  # the leader answered, so it was not lost
        if isinstance(outcome, CommandResult):
            if not pending.answer.done():
                pending.answer.set_result(outcome)
            return True
        if isinstance(outcome, Unavailable | OutcomeUnknown):
            pending.trouble, pending.is_store_full = f"{leader.id}: {outcome}", isinstance(outcome, NoSpace)
            if isinstance(outcome, Unavailable):  # this attempt certainly never takes effect
                pending.maybe_received = received_before
            if isinstance(outcome, NotLeader):
                self._leadership.mark_doubtful(outcome.url)
            return False
        if isinstance(outcome, TooOld) and not received_before and not pending.is_after_given and not pending.resent:
            # This was its first attempt, and it did not run. Once only: a leader that refuses a fresh index is wrong.
            pending.after, pending.maybe_received, pending.resent = None, False, True
            self._index_at = -_INDEX_AGE_MAX_S  # not fresh: fetch it again
            return False
        self._fail(pending, outcome)
        return True

    def _handle_no_answer(
        self, batch: list[PendingCommand], leader: Leader, error: Broken, received_before: list[bool]
    ) -> None:
        for pending, received in zip(batch, received_before, strict=True):
            pending.trouble, pending.is_store_full = str(error), False
            if error.sent:
                pending.unanswered_by = leader
            else:
                pending.maybe_received = received
        self._requeue(batch)
        if not isinstance(error, LeaderSuperseded):
            self._state.mark_suspended()
            self._back_off(leader, error)

    def _handle_error(
        self, batch: list[PendingCommand], leader: Leader, error: NodectlError, received_before: list[bool]
    ) -> None:
        """Handle an error that answered the whole request."""
        for pending, received in zip(batch, received_before, strict=True):
            pending.unanswered_by = None
            pending.trouble, pending.is_store_full = f"{leader.id}: {error}", isinstance(error, NoSpace)
            if isinstance(error, Unavailable):
                pending.maybe_received = received
        if isinstance(error, Unavailable | OutcomeUnknown):
            self._requeue(batch)
            self._back_off(leader, error)
        elif len(batch) > 1 and isinstance(error, Invalid | TooLarge):
            for pending in batch:  # one command may be the reason for the refusal of all: send each alone
                pending.send_alone = True
            self._requeue(batch)
        else:
            for pending in batch:
                self._fail(pending, type(error)(*error.args))

    # --- shared -----------------------------------------------------------------------------------------------------

    def _requeue(self, batch: Iterable[PendingCommand]) -> None:
        """Put commands back at the head of the queue, in their order: they have waited longest."""
        self._waiting.extendleft(reversed([pending for pending in batch if not pending.answer.done()]))

    def _reset_backoff(self) -> None:
        self._pauses.reset()
        self._not_before = 0.0
        self._state.mark_connected()
        self._leadership.clear_doubt()

    def _back_off(self, leader: Leader, error: Exception | None) -> None:
        self._last_tried_term = leader.term
        requested_s = requested_pause_s(error)
        self._not_before = time.monotonic() + max(self._pauses.next_s(), requested_s)
        if error is not None and not requested_s:  # a leader that is overloaded still leads
            self._leadership.mark_doubtful(error.url if isinstance(error, NotLeader) else None)

    def _leader_changed(self) -> None:
        """Try a newer leader at once, and cancel the requests that an older one has not answered."""
        leader = self._leadership.leader
        if leader is not None and self._last_tried_term is not None and leader.term > self._last_tried_term:
            self._pauses.reset()
            self._not_before = 0.0
        for attempt in self._attempts:
            if leader is not None and attempt.leader.term < leader.term and attempt.task is not None:
                attempt.superseded = True
                attempt.task.cancel()
        self._wake.set()

    def _fail_all(self, message: str, kind: type[NodectlError] = Unavailable) -> None:
        while self._waiting:
            pending = self._waiting.popleft()
            if pending.maybe_received:
                self._fail(pending, self._unknown_error(pending, message))
            else:
                self._fail(pending, kind(message))


def _outcome(result: dict[str, Any]) -> CommandResult | NodectlError:
    if "problem" in result:
        return from_problem(result["problem"])
    return CommandResult(result["index"], result["id"], result.get("result"), bool(result.get("repeated", False)))
