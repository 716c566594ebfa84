"""Local reads: from memory, without a leader. A masterd that has read nothing answers an error, not an empty state."""

from __future__ import annotations

import time

import aiohttp
import pytest

from tests.support.fakes.masterd_parts import FakeMasterd, serving

_OF_THE_STATE = ("/v1/nodes", "/v1/nodes/n1", "/v1/documents", "/v1/documents/a", "/v1/config", "/v1/history")


@pytest.mark.parametrize("path", _OF_THE_STATE)
async def test_a_masterd_that_read_nothing_says_so(path: str) -> None:
    masterd = FakeMasterd()
    masterd.replica.up_to_date_at = 0.0
    masterd.replica.state.index = 0
    masterd.replica.outage = "etcd does not answer"
    async with serving(masterd) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}{path}?consistency=local") as answer:
            document = await answer.json(content_type=None)
        assert (answer.status, document["code"]) == (503, "unavailable")
        assert "has not read the journal yet: etcd does not answer" in document["detail"]


async def test_a_masterd_in_a_long_replay_says_how_far_it_is() -> None:
    masterd = FakeMasterd()
    masterd.replica.up_to_date_at = 0.0
    masterd.replica.state.index = 1234
    async with serving(masterd) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/v1/nodes?consistency=local") as answer:
            assert "it is reading it, and is at index 1234" in (await answer.json(content_type=None))["detail"]
        async with session.get(f"{url}/v1/health") as answer:
            assert answer.status == 200, "health is answered all the same"


async def test_an_answer_says_how_old_it_is() -> None:
    masterd = FakeMasterd()
    masterd.replica.up_to_date_at = time.monotonic() - 40.0
    async with (
        serving(masterd) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/v1/nodes?consistency=local") as answer,
    ):
        assert answer.status == 200
        assert int(answer.headers["Nodectl-Age-Ms"]) >= 40_000
        assert answer.headers["Nodectl-Index"] == "7"


async def test_a_position_beyond_the_journal_is_refused() -> None:
    """A stream from there would be silent for ever."""
    masterd = FakeMasterd()
    async with serving(masterd) as url, aiohttp.ClientSession() as session:
        masterd.replica.up_to_date_at = time.monotonic()
        async with session.get(f"{url}/v1/events?after=8") as answer:
            assert answer.status == 400
            assert "beyond the end of the journal, which is at 7" in (await answer.json(content_type=None))["detail"]
        masterd.replica.up_to_date_at = time.monotonic() - 60.0
        async with session.get(f"{url}/v1/events?after=8") as answer:
            assert answer.status == 503, "a standby that is behind: another masterd may have it"
