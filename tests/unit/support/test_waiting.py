"""Waiting with a deadline, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from nodestore.errors import Denied, TimedOut, Unavailable
from nodestore.support.backoff import Backoff
from nodestore.support.waiting import set_within, wait_until
from tests.support.fakes.clock import VirtualTime


@pytest.mark.parametrize(
    ("set_after_s", "timeout_s", "expected", "waits_s"),
    [
        (0.0, 5.0, True, 0.0),  # set already
        (0.0, 0.0, True, 0.0),
        (0.0, -1.0, True, 0.0),
        (0.0, None, True, 0.0),
        (2.0, 5.0, True, 2.0),
        (2.0, None, True, 2.0),
        (2.0, 2.0, True, 2.0),  # in the very turn in which the time is up
        (2.0, 1.5, False, 1.5),
        (2.0, 0.0, False, 0.0),
        (2.0, -1.0, False, 0.0),
    ],
)
def test_an_event_is_waited_for_until_the_timeout(
    set_after_s: float, timeout_s: float | None, expected: bool, waits_s: float
) -> None:
    """The wait ends when the event is set or the timeout is over; the result says which."""

    async def wait() -> bool:
        event = asyncio.Event()
        if set_after_s == 0.0:
            event.set()
        else:
            asyncio.get_running_loop().call_later(set_after_s, event.set)
        return await set_within(event, timeout_s)

    with VirtualTime() as world:
        begun = world.now
        assert world.run(wait()) is expected
        assert world.now - begun == pytest.approx(waits_s)


def test_a_cancelled_wait_is_cancelled() -> None:
    """Also one whose event is set in the same turn of the loop: the owner asked for an end, not for a result."""

    async def cancel(event: asyncio.Event) -> bool:
        waiting = asyncio.create_task(set_within(event, 5.0))
        await asyncio.sleep(1.0)
        event.set()
        waiting.cancel()
        await asyncio.wait({waiting})
        return waiting.cancelled()

    with VirtualTime() as world:
        assert world.run(cancel(asyncio.Event()))


# --- a condition ----------------------------------------------------------------------------------------------------


class Check:
    """Returns one result after another, then the last one repeatedly, and records when it was called."""

    def __init__(self, world: VirtualTime, *answers: str | Exception | None) -> None:
        self._world, self._answers, self._begun = world, list(answers), world.now
        self.asked_s: list[float] = []

    async def __call__(self) -> str | None:
        self.asked_s.append(round(self._world.now - self._begun, 6))
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_condition_is_checked_until_nothing_is_missing() -> None:
    """The pauses grow; Unavailable counts as missing; what is missing is reported."""
    with VirtualTime() as world:
        check, reported = Check(world, "n1", "n2", Unavailable("nobody leads"), "n2", None), list[str]()
        world.run(wait_until(check, "they are there", 10.0, Backoff(0.1, 0.4), report=reported.append))
        assert check.asked_s == [0.0, 0.1, 0.3, 0.7, 1.1]
        assert reported == ["n1", "n2", "nobody leads", "n2"]


@pytest.mark.parametrize(
    ("timeout_s", "asked_s"),
    [(0.0, [0.0]), (0.5, [0.0, 0.4, 0.5]), (1.0, [0.0, 0.4, 0.8, 1.0])],
)
def test_a_condition_that_is_late_is_checked_once_more_at_the_deadline(timeout_s: float, asked_s: list[float]) -> None:
    """If that check fails too, TimedOut names what was waited for and what is missing."""
    with VirtualTime() as world:
        check = Check(world, "n1")
        expected = f"waited {timeout_s:g} s until it is there: n1 (its log is empty)"
        with pytest.raises(TimedOut) as caught:
            world.run(
                wait_until(check, "it is there", timeout_s, Backoff(0.4, 0.4), details=lambda: " (its log is empty)")
            )
        assert str(caught.value) == expected
        assert check.asked_s == asked_s


def test_another_error_ends_the_wait() -> None:
    """Waiting does not help against a refusal."""
    with VirtualTime() as world:
        check = Check(world, "n1", Denied("wrong password"))
        with pytest.raises(Denied):
            world.run(wait_until(check, "it is there", 10.0, Backoff(0.1, 0.1)))
        assert check.asked_s == [0.0, 0.1]


def test_a_report_may_end_the_wait() -> None:
    """For example, a wait for a process ends when that process has ended."""

    def ended(_: str) -> None:
        raise ValueError("m1 has ended")

    with VirtualTime() as world:
        check = Check(world, "n1")
        with pytest.raises(ValueError, match="m1 has ended"):
            world.run(wait_until(check, "it is there", 10.0, Backoff(0.1, 0.1), report=ended))
        assert check.asked_s == [0.0]
