"""The answers to switchovers: what they say is so, and unfit standbys are refused with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest

from masterd.election.campaign import Campaign
from nodestore.cluster.election import Fence, TakeoverWon
from nodestore.etcd.session import Range
from nodestore.schema.models import Candidate, Term
from tests.support.fakes.masterd_parts import FakeLeader, FakeMasterd, serving

TERM = Term(1, 20)


class _Takeovers:
    """Wins the term, and then calls `after`."""

    is_taking_over = False

    def __init__(self, after: Callable[[], None]) -> None:
        self._after = after

    async def take_over_from(self, revision: int, actor: str, timeout_s: float) -> TakeoverWon:
        asyncio.get_running_loop().call_later(0.02, self._after)
        return TakeoverWon(Fence(TERM, 1, "nonce"), None, None, None, Range(1, (), False, 0))


async def _request(url: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body) as answer:
        return answer.status, dict(await answer.json(content_type=None))


async def _take_over(masterd: FakeMasterd, after: Callable[[], None]) -> tuple[int, dict[str, Any]]:
    masterd.parts = replace(masterd.parts, campaign=cast(Campaign, _Takeovers(after)))
    async with serving(masterd) as url:
        return await _request(url, "/v1/campaign", {"revision": 7, "actor": "test"})


async def test_a_takeover_is_confirmed_once_the_new_leader_serves() -> None:
    """Not when the transaction is won."""
    masterd, leader = FakeMasterd(), FakeLeader(TERM.revision)

    def lead() -> None:
        masterd.leadership.leader = leader.role
        asyncio.get_running_loop().call_later(0.05, leader.serving.set)

    status, answer = await _take_over(masterd, lead)
    assert status == 200
    assert answer["term"] == {"epoch": 1, "revision": 20}
    assert leader.serving.is_set()


async def test_a_term_that_the_new_leader_gives_up_is_no_success() -> None:
    """The answer says why it was given up."""
    masterd = FakeMasterd()

    def give_up() -> None:
        masterd.leadership.give_up_reason, masterd.leadership.given_up_term = "gave up term 1.20: broken", TERM

    status, answer = await _take_over(masterd, give_up)
    assert status == 503
    assert "m1 took over and could not lead: gave up term 1.20: broken" in answer["detail"]


def _candidate(name: str, unfit: str | None) -> Candidate:
    return Candidate(id=name, host=name, urls=(f"http://{name}:1",), nonce=name, unfit=unfit)


@pytest.mark.parametrize(
    ("to", "status", "expected"),
    [
        ("m2", 409, "standby m2 is not fit to lead: it runs another application"),
        (None, 503, "no standby is fit to lead: m2: it runs another application"),
    ],
)
async def test_an_unfit_standby_is_not_asked_to_take_over(to: str | None, status: int, expected: str) -> None:
    """Whether it was named or not."""
    masterd = FakeMasterd()
    masterd.lead()
    masterd.view.candidates.items |= {
        "m1": _candidate("m1", None), "m2": _candidate("m2", "it runs another application"),
    }  # fmt: skip
    async with serving(masterd) as url:
        found, answer = await _request(url, "/v1/leader/switchover", {} if to is None else {"to": to})
    assert (found, answer["detail"]) == (status, expected)
