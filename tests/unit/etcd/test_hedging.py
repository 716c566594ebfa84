"""Hedging: which copies are sent when, which answer counts, and which error is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nodestore.errors import Denied, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.hedging import first_answer
from tests.support.fakes.clock import VirtualTime

NEVER = 10**6


class Members:
    """Answers copy n after `after_s[n]` seconds: with its position, or with the error `errors[n]`."""

    def __init__(self, *after_s: float, errors: dict[int, Exception] | None = None) -> None:
        self._after_s, self._errors = after_s, errors or {}
        self._begun: float | None = None
        self.sent: list[tuple[float, int]] = []
        """When each copy was sent, in seconds since the first one, and its position."""
        self.time_left_s: list[float] = []
        self.cancelled: list[int] = []
        self.answered: list[int] = []

    async def send(self, left_s: float, position: int) -> int:
        loop = asyncio.get_running_loop()
        self._begun = loop.time() if self._begun is None else self._begun
        self.sent.append((round(loop.time() - self._begun, 3), position))
        self.time_left_s.append(round(left_s, 3))
        try:
            async with asyncio.timeout(left_s):
                await asyncio.sleep(self._after_s[position])
        except TimeoutError:
            raise OutcomeUnknown(f"copy {position} was not answered") from None
        except asyncio.CancelledError:
            self.cancelled.append(position)
            raise
        if position in self._errors:
            raise self._errors[position]
        return position

    async def ask(self, *pauses_s: float, timeout_s: float = 10.0) -> int:
        return await first_answer(self.send, timeout_s=timeout_s, pauses_s=pauses_s, note_answered=self.answered.append)


def run(work: Callable[[], Any]) -> Any:
    with VirtualTime() as clock:
        return clock.run(work())


def test_an_answer_in_time_needs_no_second_copy() -> None:
    """One copy is sent, which has the whole time."""
    members = Members(0.1)
    assert run(lambda: members.ask(0.2)) == 0
    assert (members.sent, members.time_left_s, members.answered) == ([(0.0, 0)], [10.0], [0])


def test_copies_follow_after_their_pauses() -> None:
    """Each pause counts from the copy before. The first answer counts; the other copies are cancelled."""
    members = Members(NEVER, NEVER, 0.5)
    assert run(lambda: members.ask(0.2, 0.3)) == 2
    assert members.sent == [(0.0, 0), (0.2, 1), (0.5, 2)]
    assert members.time_left_s == [10.0, 9.8, 9.5]
    assert (members.answered, members.cancelled) == ([2], [0, 1])


def test_the_first_copy_may_still_answer() -> None:
    """Although a second copy is under way."""
    members = Members(0.3, NEVER)
    assert run(lambda: members.ask(0.2)) == 0
    assert (members.answered, members.cancelled) == ([0], [1])


def test_a_failed_copy_does_not_wait_for_the_pause() -> None:
    """While another copy is pending, the next one is sent at once."""
    members = Members(NEVER, 0.1, 0.1, errors={1: Unavailable("gone")})
    assert run(lambda: members.ask(0.2, 5.0)) == 2
    assert members.sent == [(0.0, 0), (0.2, 1), (0.3, 2)]


def test_no_copy_is_sent_at_the_end_of_the_time() -> None:
    """With less than 20 ms left it could not be answered."""
    members = Members(NEVER, NEVER)
    with pytest.raises(OutcomeUnknown, match="copy 0"):
        run(lambda: members.ask(0.99, timeout_s=1.0))
    assert members.sent == [(0.0, 0)]


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ({0: Unavailable("a")}, "a"),
        ({0: Unavailable("a"), 1: Denied("b")}, "a"),
        ({0: Unavailable("a"), 1: OutcomeUnknown("b")}, "b"),
        ({0: OutcomeUnknown("a"), 1: OutcomeUnknown("b")}, "a"),
    ],
)
def test_which_error_is_raised(errors: dict[int, Exception], raised: str) -> None:
    """That of the copy that failed first, unless another one may have taken effect."""
    members = Members(0.3, 0.3, errors=errors)
    pauses_s = (0.1,) if len(errors) > 1 else ()
    with pytest.raises(NodectlError, match=f"^{raised}$") as caught:
        run(lambda: members.ask(*pauses_s))
    assert type(caught.value) is type(next(error for error in errors.values() if str(error) == raised))
    assert members.answered == []


def test_another_error_ends_all_copies() -> None:
    """An error that is not a NodectlError is a defect, and is raised as it is."""
    members = Members(NEVER, 0.1, errors={1: ZeroDivisionError()})
    with pytest.raises(ZeroDivisionError):
        run(lambda: members.ask(0.2))
    assert members.cancelled == [0]


def test_cancelling_the_caller_cancels_all_copies() -> None:
    members = Members(NEVER, NEVER)

    async def cancelled() -> None:
        task = asyncio.create_task(members.ask(0.2))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled)
    assert members.cancelled == [0, 1]


def test_a_caller_that_was_interrupted_is_not_cancelled() -> None:
    """The second copy interrupts the caller, which then goes on as if nothing had happened."""
    members = Members(NEVER, 0.1)

    async def work() -> int:
        async with asyncio.timeout(60.0):
            assert await members.ask(0.2) == 1
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0.1)
        return task.cancelling()

    assert run(work) == 0


@pytest.mark.parametrize("interrupted_first", [True, False])
def test_an_answer_does_not_hide_a_cancellation_at_the_same_moment(interrupted_first: bool) -> None:
    """The second copy is answered and the caller is cancelled before the caller's task runs again."""
    answer: list[asyncio.Future[None]] = []

    async def send(left_s: float, position: int) -> int:
        answer.append(asyncio.get_running_loop().create_future())
        await answer[position]
        return position

    async def work() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(first_answer(send, timeout_s=10.0, pauses_s=(0.2,)))
        await asyncio.sleep(0.3)
        answer[1].set_result(None)
        await asyncio.sleep(0)  # the copy ends; its callback, which interrupts the caller, is the next to run
        if interrupted_first:
            loop.call_soon(task.cancel)
        else:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)


def test_hedging_in_the_cleanup_of_a_cancelled_task() -> None:
    """Its earlier cancellation is not mistaken for a new one."""
    members = Members(NEVER, 0.1)

    async def cleanup() -> int:
        try:
            await asyncio.sleep(NEVER)
        finally:
            return await members.ask(0.2)  # noqa: B012

    async def work() -> int:
        task = asyncio.create_task(cleanup())
        await asyncio.sleep(0.1)
        task.cancel()
        return await task

    assert run(work) == 1


def test_both_copies_are_answered_at_once() -> None:
    """One of the two answers counts, and the caller is not left cancelled."""
    members = Members(0.3, 0.1)

    async def work() -> tuple[int, int]:
        position = await members.ask(0.2)
        await asyncio.sleep(0.1)
        task = asyncio.current_task()
        assert task is not None
        return position, task.cancelling()

    position, cancelling = run(work)
    assert position in (0, 1)
    assert cancelling == 0
    assert members.answered == [position]


def test_the_first_copy_fails_while_another_is_pending() -> None:
    """The next copy is sent at once, and any of them may be answered."""
    members = Members(0.3, NEVER, 0.1, errors={0: OutcomeUnknown("a")})
    assert run(lambda: members.ask(0.2, 5.0)) == 2
    assert members.sent == [(0.0, 0), (0.2, 1), (0.3, 2)]
    assert members.cancelled == [1]
