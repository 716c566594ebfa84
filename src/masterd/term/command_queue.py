"""The queue of submitted commands: admission, handover and draining.

All commands of a term pass through it, those of clients and those of the leader itself. One task takes them out and
commits them; all others wait for the outcomes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.submissions import Submission, SubmissionGroup
from masterd.term.takeover_record import TakeoverRecord
from masterd.term.term_end import TermEnd
from nodestore.errors import LeadershipLost, NoSpace, Unavailable
from nodestore.support.waiting import set_within

_HANDOVER_S = 6.0


class CommandQueue:
    """Commands that wait to be committed, in order.

    commands_max: admission limit for commands of clients. space_refusal: returns why etcd has no room for commands, or
    None. wake: set when commands were added.
    """

    def __init__(
        self,
        commands_max: int,
        term_end: TermEnd,
        takeover_record: TakeoverRecord,
        space_refusal: Callable[[], NoSpace | None],
        wake: asyncio.Event,
    ) -> None:
        self._commands_max, self._term_end, self._takeover_record = commands_max, term_end, takeover_record
        self._space_refusal, self._wake = space_refusal, wake
        self._waiting: deque[Submission] = deque()
        self._handovers = 0
        self._accepting = asyncio.Event()
        self._accepting.set()
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Submission]:
        return iter(self._waiting)

    # --- for clients ---

    async def submit(self, requests: Sequence[CommandRequest]) -> list[CommandOutcome]:
        """Queue commands in this order; return their outcomes once committed. See `Leader.submit`."""
        await self._wait_accepting()
        if (refusal := self._space_refusal()) is not None:
            raise refusal
        if len(self._waiting) + len(requests) > self._commands_max:
            raise Unavailable(f"{len(self._waiting)} commands are queued already; try again in a moment")
        if not requests:
            return []
        self._takeover_record.note_request()
        group = SubmissionGroup(len(requests))
        self.append([Submission(request, group, position) for position, request in enumerate(requests)])
        return await group.all_resolved

    async def _wait_accepting(self) -> None:
        """Wait until commands are accepted. LeadershipLost if a handover takes longer than 6 s, or the term is over."""
        if not self._accepting.is_set() and not await set_within(self._accepting, _HANDOVER_S):
            raise LeadershipLost(
                f"this master is still handing leadership over after {_HANDOVER_S:g} s; send the command again"
            )
        self._term_end.raise_if_ended()

    # --- for a handover ---

    @property
    def is_accepting(self) -> bool:
        """Whether commands of clients are accepted, rather than held back by a handover."""
        return self._accepting.is_set()

    def close_for_handover(self) -> None:
        """Hold back new commands. Queued ones are still committed; new ones wait for the end of the handover."""
        self._handovers += 1
        self._accepting.clear()

    def reopen(self) -> None:
        """Accept commands again after a failed handover, unless another handover is in progress."""
        self._handovers -= 1
        if self._handovers == 0:
            self._accepting.set()

    async def wait_drained(self) -> None:
        """Wait until no command is queued or being committed. Raises LeadershipLost if the term ended before."""
        while self._waiting or not self._idle.is_set():
            await self._idle.wait()
            await asyncio.sleep(0)
        self._term_end.raise_if_ended()

    # --- for the leader ---

    def append(self, submissions: Sequence[Submission]) -> None:
        """Queue commands without an admission check, and wake the leader."""
        self._waiting.extend(submissions)
        self._wake.set()

    def prepend(self, submissions: Sequence[Submission]) -> None:
        """Queue commands before all others, in this order."""
        self._waiting.extendleft(reversed(submissions))

    @property
    def first(self) -> Submission:
        """The command that is next. IndexError if none is queued."""
        return self._waiting[0]

    def pop_first(self) -> Submission:
        """Remove and return the command that is next."""
        return self._waiting.popleft()

    def remove(self, submission: Submission) -> None:
        """Remove a queued command."""
        self._waiting.remove(submission)

    def set_idle(self, idle: bool) -> None:
        """Note whether the leader has nothing left to do; `wait_drained` waits for that."""
        if idle:
            self._idle.set()
        else:
            self._idle.clear()

    def close(self, error: LeadershipLost) -> None:
        """Fail all queued commands at the end of the term, and wake the callers of `submit` and `wait_drained`."""
        self._accepting.set()
        while self._waiting:
            self._waiting.popleft().fail(LeadershipLost(str(error)))
        self._idle.set()
