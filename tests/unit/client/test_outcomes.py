"""A lost answer: the client asks what became of the command, and never guesses."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from nodectl import Client, CommandOutcomeUnknown
from nodestore.errors import Conflict, IdClosed, NodectlError, Unavailable
from tests.support.fakes.masterd import FakeCluster, FakeMasterd, fake_cluster, sever

TIMEOUT_S = 20.0
SOON_S = 2.0


def client_of(cluster: FakeCluster) -> Client:
    return Client(cluster.urls, actor="ann", command_timeout_s=TIMEOUT_S, read_timeout_s=TIMEOUT_S)


async def lose_answer(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
    """Run the commands and break the connection."""
    await master.answer(commands)
    sever(request)
    return web.Response()


async def lose_request(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
    sever(request)
    return web.Response()


def asked(cluster: FakeCluster) -> list[dict[str, Any]]:
    return [question for master in cluster.masters.values() for question in master.asked]


# --- at the end of the time limit -----------------------------------------------------------------------------------


async def test_a_command_that_has_taken_effect_gets_its_result() -> None:
    """All its answers are lost. The question brings the first result."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.index = 7
        cluster.leading.always = lose_answer
        done = await client.command("do", timeout_s=SOON_S)
        assert (done.index, done.repeated) == (8, True)
        assert [command["name"] for command in cluster.executed] == ["do"]
        assert asked(cluster) == [{"id": done.id, "after": 7, "actor": "ann"}]


async def test_a_command_that_has_not_taken_effect_never_will() -> None:
    """Its copies may still wait somewhere. The error is that of a command that was certainly not run."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.leading.always = lose_request
        with pytest.raises(Unavailable, match="closed at index 1") as caught:
            await client.command("do", timeout_s=SOON_S)
        assert not isinstance(caught.value, CommandOutcomeUnknown)
        (command,) = {command["id"]: command for batch in cluster.leading.batches for command in batch}.values()
        assert cluster.execute(command)["problem"]["code"] == "id_closed"


async def test_an_id_of_the_caller_stays_open() -> None:
    """Another process may repeat the command with it, so the client does not ask by itself."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.leading.always = lose_request
        with pytest.raises(CommandOutcomeUnknown) as caught:
            await client.command("do", id="mine", timeout_s=SOON_S)
        assert asked(cluster) == []
        cluster.leading.always = None
        assert not (await client.command("do", id="mine", after=caught.value.after)).repeated


@pytest.mark.parametrize("case", ["an earlier release", "below the floor", "no answer"])
async def test_what_cannot_be_known_stays_unknown(case: str) -> None:
    """The error has what a later question or repeat needs."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.knows_outcomes, cluster.floor = case != "an earlier release", 5 if case == "below the floor" else 0
        cluster.index = 3

        async def behave(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> Any:
            if case == "no answer":
                master.silent = True
            return await lose_answer(master, request, commands)

        cluster.leading.always = behave
        with pytest.raises(CommandOutcomeUnknown, match="could not be asked for") as caught:
            await client.command("do", timeout_s=SOON_S)
        cluster.leading.silent, cluster.leading.always, cluster.floor, cluster.knows_outcomes = False, None, 0, True
        reference = "" if case == "below the floor" else f"{caught.value.command_id}@3"
        assert caught.value.reference == reference
        assert (await client.outcome_of(caught.value.command_id, caught.value.after))["took_effect"]


async def test_the_question_goes_on_to_the_next_leader() -> None:
    """The old one dies with the question in hand."""
    async with fake_cluster() as cluster, client_of(cluster) as client:
        cluster.masters["m1"].always = lose_answer
        cluster.masters["m1"].drop_next.add("POST /v1/commands/outcome")
        calling = asyncio.create_task(client.command("do", timeout_s=4.0))
        async with asyncio.timeout(TIMEOUT_S):
            while not cluster.masters["m1"].asked:
                await asyncio.sleep(0.01)
        await cluster.masters["m1"].stop()
        cluster.lead("m2")
        assert (await calling).repeated
        assert len(cluster.masters["m2"].asked) == 1


async def test_a_command_that_was_never_received_keeps_its_whole_time() -> None:
    """There is nothing to ask for, so it is not given up before the deadline."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.lead(None)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=r"within 0\.4 s"):
            await client.command("do", timeout_s=0.4)
        assert time.monotonic() - begun >= 0.4
        assert asked(cluster) == []


# --- poison ---------------------------------------------------------------------------------------------------------


async def test_poison_is_asked_for_and_never_sent_again() -> None:
    """After two lost leaders the third one closes the id. The error does not invite to send the command again."""
    async with fake_cluster("m1", "m2", "m3") as cluster, client_of(cluster) as client:

        async def die(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
            if not master.leads:
                return master.not_leader()
            cluster.lead({"m1": "m2", "m2": "m3", "m3": "m1"}[master.name])
            sever(request)
            return web.Response()

        for master in cluster.masters.values():
            master.always = die
        with pytest.raises(NodectlError, match=r"m1 .* and m2 .* were lost") as caught:
            await client.command("poison")
        assert type(caught.value) is NodectlError
        assert "closed at index 1" in str(caught.value)
        assert cluster.masters["m3"].batches == []
        assert len(cluster.masters["m3"].asked) == 1


# --- the method -----------------------------------------------------------------------------------------------------


async def test_the_outcome_of_a_command() -> None:
    """A known one, an unknown one twice, and one that is too old."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        done = await client.command("do", id="known")
        assert await client.outcome_of("known", 0) == {
            "id": "known", "took_effect": True, "index": 1, "result": done.result, "result_kept": True,
        }  # fmt: skip
        for _ in range(2):
            found = await client.outcome_of("new", 0)
            assert (found["took_effect"], found["index"]) == (False, 2)
        with pytest.raises(IdClosed):
            await client.command("do", id="new", after=0)
        cluster.floor = 2
        with pytest.raises(CommandOutcomeUnknown, match="cannot be known any more") as caught:
            await client.outcome_of("older", 1)
        assert (caught.value.command_id, caught.value.after) == ("older", 1)
        assert not isinstance(caught.value, Conflict)
        cluster.knows_outcomes = False
        with pytest.raises(Unavailable, match="earlier release"):
            await client.outcome_of("x", 2)
