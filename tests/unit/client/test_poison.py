"""A command that ends its leader must not walk through the cluster, and must not take others along."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from nodectl import Client, CommandOutcomeUnknown, CommandResult
from nodectl.client.connection.leadership import Leader
from nodestore.schema.models import Term
from tests.support.fakes.masterd import FakeCluster, FakeMasterd, fake_cluster, sever

NAMES = ("m1", "m2", "m3", "m4")


def next_leads(cluster: FakeCluster, cause: str) -> None:
    names = list(cluster.masters)
    assert cluster.leader is not None
    cluster.lead(names[(names.index(cluster.leader) + 1) % len(names)], cause)


def poisoned(cluster: FakeCluster) -> list[list[str]]:
    """Make each leader die that receives a command named `poison`.

    The list gets the names of each fatal request's commands.
    """
    deaths: list[list[str]] = []

    async def behaviour(
        master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]
    ) -> web.StreamResponse:
        if not master.leads:
            return master.not_leader()
        names = [command["name"] for command in commands]
        if "poison" in names:
            deaths.append(names)
            next_leads(cluster, "died")
            sever(request)
            return web.Response()
        return await master.answer(commands)

    for master in cluster.masters.values():
        master.always = behaviour
    return deaths


async def test_poison_stops_after_two_leaders_and_innocents_are_done() -> None:
    """All travel in one request at first; afterwards those that were in it are sent one by one. The leaders are of a
    release that cannot be asked for the outcome."""
    async with fake_cluster(*NAMES) as cluster, Client(cluster.urls) as client:
        cluster.knows_outcomes = False
        await client.command("warm up")
        deaths = poisoned(cluster)
        names = ["good"] * 5 + ["poison"] + ["good"] * 5
        outcomes = await asyncio.gather(*(client.command(name) for name in names), return_exceptions=True)
        assert isinstance(outcomes[5], CommandOutcomeUnknown)
        assert "m1" in str(outcomes[5])
        assert "m2" in str(outcomes[5])
        others = outcomes[:5] + outcomes[6:]
        assert all(isinstance(outcome, CommandResult) for outcome in others)
        assert len(deaths) == 2
        assert deaths[1] == ["poison"]
        await client.command("afterwards")


async def test_a_request_beside_the_poison_is_not_blamed() -> None:
    """Two requests may be in flight; what was in the other one is quarantined too, and is sent alone as well."""
    async with fake_cluster(*NAMES) as cluster, Client(cluster.urls) as client:
        await client.command("warm up")
        deaths = poisoned(cluster)
        names = ["good"] * 256 + ["poison"] + ["good"] * 20
        outcomes = await asyncio.gather(*(client.command(name) for name in names), return_exceptions=True)
        failed = [name for name, outcome in zip(names, outcomes, strict=True) if isinstance(outcome, Exception)]
        assert failed == ["poison"]
        assert len(deaths) == 2


async def test_a_leader_that_resigned_is_no_loss() -> None:
    """A switchover while a command is in flight does not count as a leader lost by the command."""
    async with fake_cluster(*NAMES) as cluster, Client(cluster.urls) as client:
        resignations = 0

        async def resign(
            master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]
        ) -> web.StreamResponse:
            nonlocal resignations
            if not master.leads:
                return master.not_leader()
            if resignations < 4:
                resignations += 1
                next_leads(cluster, "switchover")
                sever(request)
                return web.Response()
            return await master.answer(commands)

        for master in cluster.masters.values():
            master.always = resign
        result = await client.command("do")
        assert result.index == 1
        assert resignations == 4


async def test_broken_connections_alone_are_no_loss() -> None:
    """As long as the same leader lives, a command may be repeated any number of times."""
    async with fake_cluster("m1", "m2") as cluster, Client(cluster.urls) as client:

        async def break_it(
            master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]
        ) -> web.StreamResponse:
            sever(request)
            return web.Response()

        cluster.leading.script.extend([break_it] * 4)
        assert (await client.command("do")).index == 1


@pytest.mark.parametrize(
    ("cause", "expected"),
    [("resigned", True), ("switchover", True), ("died", False), ("silent", False), ("expired", False), ("", False)],
)
def test_only_what_a_leader_does_by_itself_is_handing_over(cause: str, expected: bool) -> None:
    """The cause that the new leader recorded decides."""
    assert Leader("m2", "pc", ("http://m2",), Term(1, 2), cause=cause).handed_over is expected
