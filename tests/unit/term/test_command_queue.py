"""The queue of commands: what it admits, when it is drained, and what its end means for callers."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from masterd.election.timeline import Timeline
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.command_queue import CommandQueue
from masterd.term.pacing.batch_pace import BatchPace
from masterd.term.submissions import OutcomeCallback, Submission
from masterd.term.takeover_record import TakeoverRecord
from masterd.term.term_end import TermEnd
from nodestore.cluster.election import Fence
from nodestore.errors import LeadershipLost, NodectlError, NoSpace, OutcomeUnknown, Overloaded, Unavailable
from nodestore.schema.keys import Keys
from nodestore.schema.models import Term


class Fixture:
    """A queue for up to three commands, without a leader that takes them out."""

    def __init__(self, pace: BatchPace | None = None) -> None:
        self.wake = asyncio.Event()
        self.end = TermEnd(self.wake)
        self.refusal: NoSpace | None = None
        fence = Fence(Term(1, 7), 1, "nonce")
        record = TakeoverRecord(cast(Any, None), Keys("test"), fence, Timeline(), asyncio.Event())
        self.queue = CommandQueue(3, self.end, record, lambda: self.refusal, self.wake, pace)

    def ids(self) -> list[str]:
        return [submission.request.id for submission in self.queue]

    async def submit(self, *ids: str) -> asyncio.Task[list[CommandOutcome]]:
        """Submit in a task, and let it run up to its wait."""
        submitting = asyncio.create_task(self.queue.submit([_request(item) for item in ids]))
        await asyncio.sleep(0)
        return submitting


def _request(command_id: str) -> CommandRequest:
    return CommandRequest(command_id, "put", {}, "t", 0)


async def test_commands_are_queued_in_order_and_answered_together() -> None:
    """Commands of the leader itself go before those of clients."""
    fixture = Fixture()
    submitting = await fixture.submit("a", "b")
    own = [Submission(_request(item), OutcomeCallback(lambda _: None)) for item in ("x", "y")]
    fixture.queue.prepend(own)
    assert fixture.ids() == ["x", "y", "a", "b"]
    assert fixture.wake.is_set()
    while fixture.queue:
        submission = fixture.queue.pop_first()
        submission.resolve(CommandOutcome(submission.request.id, index=1))
    assert [outcome.id for outcome in await submitting] == ["a", "b"]


@pytest.mark.parametrize(
    ("case", "full", "ended", "commands", "expected"),
    [
        ("etcd is full", True, False, 1, NoSpace),
        ("too many commands", False, False, 4, Unavailable),
        ("the term is over", False, True, 1, LeadershipLost),
        ("the term is over and etcd is full", True, True, 1, LeadershipLost),
    ],
)
async def test_a_refused_request_queues_nothing(
    case: str, full: bool, ended: bool, commands: int, expected: type[NodectlError]
) -> None:
    """Each refusal means that no command was run."""
    fixture = Fixture()
    if full:
        fixture.refusal = NoSpace("full")
    if ended:
        fixture.end.mark(LeadershipLost("m2 leads now"))
    with pytest.raises(expected):
        await fixture.queue.submit([_request(f"x{number}") for number in range(commands)])
    assert fixture.ids() == [], case


async def test_an_empty_request_has_no_outcomes() -> None:
    """It does not wait for a commit."""
    assert await Fixture().queue.submit([]) == []


async def test_a_handover_holds_back_new_commands_only() -> None:
    """Queued commands stay; new ones follow once no handover is in progress."""
    fixture = Fixture()
    first = await fixture.submit("a")
    fixture.queue.close_for_handover()
    fixture.queue.close_for_handover()
    second = await fixture.submit("b")
    fixture.queue.reopen()
    assert (fixture.ids(), fixture.queue.is_accepting) == (["a"], False)
    fixture.queue.reopen()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert fixture.ids() == ["a", "b"]
    fixture.queue.close(LeadershipLost("over"))
    await asyncio.gather(first, second)


async def test_the_end_of_the_term_answers_every_caller() -> None:
    """Queued commands fail, a drain ends, and later calls are refused; the first reason is reported."""
    fixture = Fixture()
    submitting = await fixture.submit("a", "b")
    draining = asyncio.create_task(fixture.queue.wait_drained())
    await asyncio.sleep(0)
    fixture.end.mark(LeadershipLost("m2 leads now"))
    fixture.end.mark(LeadershipLost("a later reason"))
    fixture.queue.close(LeadershipLost("m1 no longer leads"))
    outcomes = await submitting
    assert [type(outcome.error) for outcome in outcomes] == [LeadershipLost] * 2
    with pytest.raises(LeadershipLost, match="m2 leads now"):
        await draining
    with pytest.raises(LeadershipLost, match="m2 leads now"):
        await fixture.queue.submit([_request("c")])


# --- senders that no longer wait ---


async def test_a_command_that_did_not_run_in_time_certainly_never_runs() -> None:
    """Its sender learns that nothing happened. One that runs already may still be committed."""
    fixture = Fixture()
    now = asyncio.get_running_loop().time()
    submitting = asyncio.create_task(fixture.queue.submit([_request(item) for item in ("a", "b")], deadline=now + 0.05))
    await asyncio.sleep(0)
    running = fixture.queue.pop_first()
    running.is_running = True
    outcomes = await submitting
    assert [type(outcome.error) for outcome in outcomes] == [OutcomeUnknown, Unavailable]
    assert fixture.queue.first.is_over(now), "the leader drops it"
    running.resolve(CommandOutcome("a", index=1))
    assert (await submitting)[0].index == 0, "too late to be an answer"


async def test_a_command_whose_sender_is_gone_need_not_run() -> None:
    fixture, connected = Fixture(), True
    submitting = asyncio.create_task(fixture.queue.submit([_request("a")], is_wanted=lambda: connected))
    await asyncio.sleep(0)
    assert not fixture.queue.first.is_over(0.0)
    connected = False
    assert fixture.queue.first.is_over(0.0)
    fixture.queue.pop_first().give_up()
    assert isinstance((await submitting)[0].error, Unavailable)


async def test_a_command_that_would_wait_too_long_is_refused_with_the_time_to_wait() -> None:
    """Its sender would give up first, and send it again."""
    pace = BatchPace(256, 1 << 20)
    fixture = Fixture(pace)
    submitting = await fixture.submit("a")
    assert fixture.queue.overload is None
    for _ in range(100):
        pace.note_batch(1, 4.0, was_full=True)
    overload = fixture.queue.overload
    assert overload is not None
    assert overload.retry_after_s == pytest.approx(4.0)
    with pytest.raises(Overloaded):
        await fixture.queue.submit([_request("b")])
    fixture.queue.pop_first().resolve(CommandOutcome("a", index=1))
    assert fixture.queue.overload is None, "an empty queue always takes a command"
    assert (await submitting)[0].index == 1


async def test_a_command_that_would_wait_longer_than_its_sender_is_refused() -> None:
    """Otherwise it would take the place of one whose sender still waits when it is run."""
    pace = BatchPace(256, 1 << 20)
    fixture = Fixture(pace)
    submitting = await fixture.submit("a")
    pace.note_batch(1, 1.0, was_full=True)
    now = time.monotonic()
    assert fixture.queue.overload is None
    with pytest.raises(Overloaded):
        await fixture.queue.submit([_request("b")], deadline=now + 0.5)
    patient = asyncio.create_task(fixture.queue.submit([_request("c")], deadline=now + 60.0))
    await asyncio.sleep(0)
    assert fixture.ids() == ["a", "c"]
    for _ in "ac":
        fixture.queue.pop_first().resolve(CommandOutcome("x", index=1))
    await asyncio.gather(submitting, patient)


async def test_a_nearly_full_queue_refuses_before_requests_are_parsed() -> None:
    """Under an overload a few places are free between two batches. Requests that need more would be parsed in vain."""
    fixture = Fixture()
    submitting = await fixture.submit("a", "b")
    assert fixture.queue.overload is None, "one more would fit"
    with pytest.raises(Overloaded):
        await fixture.queue.submit([_request("c"), _request("d")])
    assert fixture.queue.overload is not None
    fixture.queue.pop_first().resolve(CommandOutcome("a", index=1))
    assert fixture.queue.overload is None, "two would fit"
    fixture.queue.pop_first().resolve(CommandOutcome("b", index=2))
    await submitting
    later = await fixture.submit("e", "f")
    assert fixture.queue.overload is None, "the queue was half empty, so that load is over"
    fixture.queue.close(LeadershipLost("the end"))
    await later
