"""Waiting with a deadline, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from nodestore.waiting import set_within
from tests.fakes.clock import VirtualTime


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
    """The result says whether the event is set; the wait ends when it is, or when the time is up."""

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
