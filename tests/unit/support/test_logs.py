"""`RateLimitedLog`: which messages are written, and at which level."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator

import pytest

from nodestore.support.logs import RateLimitedLog
from tests.support.fakes.clock import VirtualTime

LOGGER = logging.getLogger("test")


@pytest.fixture
def world() -> Iterator[VirtualTime]:
    with VirtualTime() as made:
        yield made


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """The level and the text of each record so far."""
    caplog.set_level(logging.DEBUG, LOGGER.name)
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


Written = Callable[[], list[tuple[str, str]]]


def test_a_message_that_differs_from_the_one_before_is_logged_at_once(written: Written) -> None:
    """The wording may vary where `about` names the event."""
    limited = RateLimitedLog(LOGGER, every_s=3600.0)
    for number in range(10):
        limited.log(logging.WARNING, "the same")
        limited.log(logging.WARNING, "the same")
        limited.log(logging.WARNING, f"number {number}", about="number")
        limited.log(logging.WARNING, f"number {number + 1}", about="number")
    limited.reset()
    limited.log(logging.WARNING, "number 11", about="number")
    said = [text for _, text in written()]
    assert said[:2] == ["the same", "number 0"]
    assert len(said) == 21
    assert said[-1] == "number 11"


@pytest.mark.parametrize(
    ("every_s", "times"), [(0.0, 10), (1.0, 10), (2.0, 5), (3.0, 4), (9.0, 2), (9.5, 1), (math.inf, 1)]
)
def test_a_repeated_message_is_logged_once_in_a_while(
    every_s: float, times: int, world: VirtualTime, written: Written
) -> None:
    """It is tried ten times, a second apart."""
    limited = RateLimitedLog(LOGGER, every_s)

    async def repeat() -> None:
        for _ in range(10):
            limited.log(logging.WARNING, "the same")
            await asyncio.sleep(1.0)

    world.run(repeat())
    assert written() == [("WARNING", "the same")] * times


def test_repeats_may_go_to_another_level(written: Written) -> None:
    """Repeats are logged at another level, so none is lost. A different message has the first level again."""
    limited = RateLimitedLog(LOGGER, math.inf, repeats=logging.DEBUG)
    for text in ("one", "one", "two", "one"):
        limited.log(logging.ERROR, text)
    assert written() == [("ERROR", "one"), ("DEBUG", "one"), ("ERROR", "two"), ("ERROR", "one")]


def test_after_a_reset_the_same_message_is_logged_again(written: Written) -> None:
    limited = RateLimitedLog(LOGGER, math.inf)
    limited.reset()  # nothing was logged yet: nothing changes
    for _ in range(3):
        limited.log(logging.INFO, "one")
        limited.log(logging.INFO, "one")
        limited.reset()
    assert written() == [("INFO", "one")] * 3


def test_a_message_is_no_format(written: Written) -> None:
    """A percent sign in a message is not interpreted."""
    RateLimitedLog(LOGGER).log(logging.INFO, "50 %s of %(all)s, 100%")
    assert written() == [("INFO", "50 %s of %(all)s, 100%")]
