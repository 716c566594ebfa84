"""A master that refuses with a time to wait: the client comes back then, not earlier, and not after its own limit."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from aiohttp import web

from nodectl.client import Client
from nodectl.client.connection.backoff import requested_pause_s
from nodectl.client.connection.http import RETRY_AFTER_MAX_S, from_problem
from nodestore.errors import NotLeader, Overloaded, Unavailable
from tests.support.fakes.masterd import FakeMasterd, fake_cluster

_WAIT_S = 0.6


def refusing(times: int, wait_s: float = _WAIT_S) -> Any:
    """Refuses so many requests for commands, each with a time to wait."""
    left = times

    async def behaviour(
        master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]
    ) -> web.StreamResponse:
        nonlocal left
        if left == 0:
            return await master.answer(commands)
        left -= 1
        return master.problem(503, "unavailable", "too much to do", retry_after_s=wait_s)

    return behaviour


async def test_a_command_is_sent_again_when_the_master_said() -> None:
    async with fake_cluster() as cluster, Client(cluster.urls, actor="t") as client:
        cluster.leading.always = refusing(2)
        began = time.monotonic()
        result = await client.command("do", timeout_s=30.0)
        assert result.index == 1
        assert time.monotonic() - began >= 2 * _WAIT_S
        assert len(cluster.leading.batches) == 3


async def test_the_callers_own_limit_comes_first() -> None:
    """It was certainly not run, and says so when the caller's time is up, not when the master's is."""
    async with fake_cluster() as cluster, Client(cluster.urls, actor="t") as client:
        cluster.leading.always = refusing(100, wait_s=20.0)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="too much to do"):
            await client.command("do", timeout_s=0.5)
        assert time.monotonic() - began < 10.0
        assert not cluster.executed


async def test_an_overloaded_leader_is_not_doubted() -> None:
    """To look for another leader would only add to its load."""
    async with fake_cluster("m1", "m2") as cluster, Client(cluster.urls, actor="t") as client:
        await client.command("do")
        for master in cluster.masters.values():
            master.requests.clear()
        cluster.leading.always = refusing(2)
        await client.command("do", timeout_s=30.0)
        polls = [line for master in cluster.masters.values() for line in master.requests if line.endswith("/leader")]
        assert len(polls) <= 6, "once a second, as always"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"code": "unavailable"}, None),
        ({"code": "unavailable", "retry_after_s": 1.5}, 1.5),
        ({"code": "unavailable", "retry_after_s": 1e9}, RETRY_AFTER_MAX_S),
        ({"code": "unavailable", "retry_after_s": "soon"}, None),
        ({"code": "not_leader", "retry_after_s": 9}, None),
    ],
)
def test_what_a_problem_document_asks_for(document: dict[str, Any], expected: float | None) -> None:
    error = from_problem({"detail": "no", **document})
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == expected


def test_clients_that_were_refused_together_come_back_at_different_times() -> None:
    dice = random.Random(1)
    pauses = {requested_pause_s(Overloaded("full", 2.0), dice=dice) for _ in range(50)}
    assert len(pauses) == 50
    assert all(2.0 <= pause <= 3.0 for pause in pauses)
    assert requested_pause_s(NotLeader("no")) == 0.0
    assert requested_pause_s(ValueError("no")) == 0.0
    assert requested_pause_s(None) == 0.0
