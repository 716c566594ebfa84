"""The queue of submitted commands: admission, handover and draining.

All commands of a term pass through it, those of clients and those of the leader itself. One task takes them out and
commits them; all others wait for the outcomes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.pacing.batch_pace import BatchPace
from masterd.term.submissions import Submission, SubmissionGroup, give_up_all
from masterd.term.takeover_record import TakeoverRecord
from masterd.term.term_end import TermEnd
from nodestore.errors import LeadershipLost, NoSpace, Overloaded
from nodestore.support.waiting import set_within

_HANDOVER_S = 6.0
_WAIT_MAX_S = 2.0
"""Commands are refused if they would wait longer: clients wait 5 s for an answer, and would send them again."""
_RETRY_S = 1.0


class CommandQueue:
    """Commands that wait to be committed, in order.

    commands_max: admission limit for commands of clients. space_refusal: returns why etcd has no room for commands, or
    None. wake: set when commands were added. pace: how fast commands are committed; a new command is refused if it
    would wait for too long.
    """

    def __init__(
        self,
        commands_max: int,
        term_end: TermEnd,
        takeover_record: TakeoverRecord,
        space_refusal: Callable[[], NoSpace | None],
        wake: asyncio.Event,
        pace: BatchPace | None = None,
    ) -> None:
        self._pace = pace
        self._commands_max, self._term_end, self._takeover_record = commands_max, term_end, takeover_record
        self._space_refusal, self._wake = space_refusal, wake
        self._waiting: deque[Submission] = deque()
        self._room_needed = 0
        """The commands of the largest request that found too little room since the queue was half empty. The next ones
        are probably as large, and are refused before they are parsed, which costs a leader the most."""
        self._handovers = 0
        self._accepting = asyncio.Event()
        self._accepting.set()
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Submission]:
        return iter(self._waiting)

    # --- for clients ---

    @property
    def overload(self) -> Overloaded | None:
        """Why no command of a client can be queued now; None if one can."""
        room = self._commands_max - len(self._waiting)
        if room > self._commands_max // 2:
            self._room_needed = 0
        if room <= 0 or room < self._room_needed or self._wait_s > _WAIT_MAX_S:
            return self._overloaded()
        return None

    @property
    def _wait_s(self) -> float:
        """How long a new command would wait, as far as that is known."""
        return 0.0 if self._pace is None else self._pace.wait_s(len(self._waiting))

    def _overloaded(self) -> Overloaded:
        queued = f"{len(self._waiting)} commands are queued already; try again in a moment"
        return Overloaded(queued, max(self._wait_s, _RETRY_S))

    async def submit(
        self,
        requests: Sequence[CommandRequest],
        *,
        deadline: float = math.inf,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[CommandOutcome]:
        """Queue commands in this order; return their outcomes once committed. See `Leader.submit`."""
        await self._wait_accepting()
        if (refusal := self._space_refusal()) is not None:
            raise refusal
        if (overload := self.overload) is not None:
            raise overload
        if len(self._waiting) + len(requests) > self._commands_max:
            self._room_needed = max(self._room_needed, len(requests))
            raise self._overloaded()
        if time.monotonic() + self._wait_s > deadline:
            raise self._overloaded()
        if not requests:
            return []
        self._takeover_record.note_request()
        group = SubmissionGroup(len(requests))
        submissions = [
            Submission(request, group, position, deadline=deadline, is_wanted=is_wanted)
            for position, request in enumerate(requests)
        ]
        self.append(submissions)
        if deadline == math.inf:
            return await group.all_resolved
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), give_up_all, submissions)
        try:
            return await group.all_resolved
        finally:
            timer.cancel()

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
