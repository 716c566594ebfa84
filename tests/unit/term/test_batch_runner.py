"""Which commands form a batch, and what the leader learns from it about how long others would wait."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from masterd.application.worker import JobProgress
from masterd.election.timeline import Timeline
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.batch_runner import BatchRunner
from masterd.term.command_queue import CommandQueue
from masterd.term.committer import LeaderSettings
from masterd.term.pacing.batch_pace import BatchPace
from masterd.term.submissions import OutcomeCallback, Submission
from masterd.term.takeover_record import TakeoverRecord
from masterd.term.term_end import TermEnd
from nodestore.cluster.election import Fence
from nodestore.schema.keys import Keys
from nodestore.schema.models import Term


class _Batch:
    """Runs up to `room` commands, without any effect."""

    def __init__(self, room: int) -> None:
        self._left = room
        self.records: list[str] = []

    def execute(self, request: CommandRequest) -> CommandOutcome | None:
        if self._left == 0:
            return None
        self._left -= 1
        self.records.append(request.id)
        return CommandOutcome(request.id, 1)


class _Committer:
    """Calls `while_running` during each batch, which has room for `room` commands. A commit takes `commit_s`."""

    def __init__(self, pace: BatchPace, room: int, commit_s: float) -> None:
        self.pace, self._room, self._commit_s = pace, room, commit_s
        self.worker = SimpleNamespace(hung_count=0)
        self.while_running: Callable[[], None] = lambda: None
        self.end_by = math.inf

    def may_run_inline(self, _: Sequence[CommandRequest]) -> bool:
        return False

    async def run_batch(self, work: Callable[[_Batch, JobProgress], Any], *_: Any, **__: Any) -> tuple[_Batch, Any]:
        batch = _Batch(self._room)
        self.while_running()
        return batch, work(batch, JobProgress(self.end_by))

    async def commit(self, batch: _Batch, *, on_landed: Callable[[], None]) -> None:
        await asyncio.sleep(self._commit_s)
        on_landed()


class _Fixture:
    """A queue and the runner that empties it."""

    def __init__(self, *, room: int = 1000, commit_s: float = 0.02) -> None:
        wake, self.pace = asyncio.Event(), BatchPace(256, 1 << 20)
        end = TermEnd(wake)
        record = TakeoverRecord(cast(Any, None), Keys("test"), Fence(Term(1, 7), 1, "n"), Timeline(), asyncio.Event())
        self.queue = CommandQueue(10_000, end, record, lambda: None, wake, self.pace)
        self.committer = _Committer(self.pace, room, commit_s)
        replica = SimpleNamespace(state=SimpleNamespace(ids={}))
        self.runner = BatchRunner(
            self.queue, cast(Any, self.committer), cast(Any, None), cast(Any, None), cast(Any, replica), record, end,
            LeaderSettings(),
        )  # fmt: skip

    def add(self, count: int) -> None:
        self.queue.append(
            [Submission(CommandRequest(f"c{number}", "put", {}, "t", 0), OutcomeCallback(lambda _: None))
             for number in range(count)]
        )  # fmt: skip


async def test_commands_that_arrive_during_a_small_batch_do_not_make_it_a_full_one() -> None:
    """A batch of one command takes as long as a batch of many. If each command that waits counted as if it would take
    as long, a leader with a slow disk would refuse a hundred commands that its next batch takes."""
    fixture = _Fixture()
    fixture.committer.while_running = lambda: fixture.add(1)
    fixture.add(1)
    for _ in range(5):
        await fixture.runner.run_next()
    assert 0.0 < fixture.pace.wait_s(256) < 1.0
    assert len(fixture.queue) == 1


async def test_a_batch_that_is_out_of_time_runs_one_command() -> None:
    """The others stay queued, in their order."""
    fixture = _Fixture()
    fixture.committer.end_by = 0.0
    fixture.add(3)
    await fixture.runner.run_next()
    assert [submission.request.id for submission in fixture.queue] == ["c1", "c2"]
    assert not any(submission.is_running for submission in fixture.queue)


@pytest.mark.parametrize(("room", "queued"), [(1000, 300), (4, 20)])
async def test_a_batch_at_a_limit_shows_how_long_others_wait(room: int, queued: int) -> None:
    """At the limit of commands, or of bytes: the commands that are left wait for further batches."""
    fixture = _Fixture(room=room)
    fixture.add(queued)
    await fixture.runner.run_next()
    ran = min(256, room)
    assert len(fixture.queue) == queued - ran
    assert fixture.pace.wait_s(ran) >= 0.02
