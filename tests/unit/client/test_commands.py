"""Commands through the client: run exactly once, whatever happens to masters and connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from nodectl import Client, CommandOutcomeUnknown, CommandResult
from nodestore.errors import Invalid, NodectlError, NotFound, Refused, Unavailable
from tests.support.fakes.masterd import FakeCluster, FakeMasterd, fake_cluster, sever

TIMEOUT_S = 20.0


def client_of(cluster: FakeCluster, **more: Any) -> Client:
    return Client(cluster.urls, actor="test", command_timeout_s=TIMEOUT_S, read_timeout_s=TIMEOUT_S, **more)


def ran(cluster: FakeCluster) -> list[str]:
    return [command["name"] for command in cluster.executed]


async def lose_answer(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
    """Runs the commands, then the connection breaks."""
    response = await master.answer(commands)
    sever(request)
    return response


async def lose_request(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
    """The connection breaks before anything is run."""
    sever(request)
    return web.Response()


async def never_answer(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
    return await master.hang()


async def test_a_command_returns_its_index_and_result() -> None:
    """A command returns its index and its result."""
    async with fake_cluster() as cluster, client_of(cluster) as client:
        first = await client.command("do", {"n": 1})
        second = await client.command("do", {"n": 2})
        assert (first.index, second.index) == (1, 2)
        assert not first.repeated
        assert first.id != second.id
        assert [command["actor"] for command in cluster.executed] == ["test", "test"]


async def test_waiting_commands_travel_together() -> None:
    """Concurrent commands share requests, and each caller gets its own result."""
    async with fake_cluster() as cluster, client_of(cluster) as client:
        results = await asyncio.gather(*(client.command("do", {"n": n}) for n in range(600)))
        assert len({result.index for result in results}) == 600
        for number, result in enumerate(results):
            assert cluster.results[result.id]["index"] == result.index
            assert cluster.executed[result.index - 1]["args"] == {"n": number}
        batches = cluster.leading.batches
        assert len(batches) < 12
        assert max(len(batch) for batch in batches) <= 256


async def test_a_lost_answer_is_asked_for_again_with_the_same_id() -> None:
    """The command ran once; the caller gets its first result."""
    async with fake_cluster() as cluster, client_of(cluster) as client:
        cluster.leading.script.append(lose_answer)
        result = await client.command("do")
        assert result.repeated
        assert ran(cluster) == ["do"]
        ids = {command["id"] for batch in cluster.leading.batches for command in batch}
        afters = {command["after"] for batch in cluster.leading.batches for command in batch}
        assert len(ids) == 1
        assert afters == {0}


async def test_after_stays_what_it_was_when_first_sent() -> None:
    """Commands of others move the index on between the attempts; `after` must not follow."""

    async def others_first(
        master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]
    ) -> web.StreamResponse:
        cluster.index += 100
        sever(request)
        return web.Response()

    async with fake_cluster() as cluster, client_of(cluster) as client:
        cluster.index = 5
        cluster.leading.script.append(others_first)
        result = await client.command("do")
        assert result.index == 106
        assert [batch[0]["after"] for batch in cluster.leading.batches] == [5, 5]
        await client.command("do")
        assert cluster.leading.batches[-1][0]["after"] == 106


async def test_a_dead_leader_is_replaced_without_the_caller_noticing() -> None:
    """Half of the commands were run by the one that died; each still runs once."""

    async def die(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
        for command in commands[: len(commands) // 2]:
            cluster.execute(command)
        cluster.lead("m2")
        sever(request)
        return web.Response()

    async with fake_cluster() as cluster, client_of(cluster) as client:
        await client.command("first")
        cluster.leading.script.append(die)
        results = await asyncio.gather(*(client.command("do", {"n": n}) for n in range(20)))
        assert len({result.index for result in results}) == 20
        assert len(cluster.executed) == 21


async def test_a_silent_leader_is_left_when_another_leads() -> None:
    """A leader cut off does not break connections: the newer term takes its commands away."""

    async def go_silent(
        master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]
    ) -> web.StreamResponse:
        cluster.lead("m2", "silent")
        master.silent = True
        return await master.hang()

    async with fake_cluster() as cluster, client_of(cluster) as client:
        cluster.leading.script.append(go_silent)
        result = await client.command("do", timeout_s=60.0)
        assert result.index == 1
        assert len(cluster.masters["m2"].batches) == 1


async def test_a_standby_names_the_leader_and_the_client_goes_there() -> None:
    """Any masters can be endpoints: one that does not lead names the leader, and the client sends the command there."""
    async with fake_cluster() as cluster:
        async with Client(cluster.masters["m2"].url, command_timeout_s=TIMEOUT_S) as client:
            await client.command("do")
            cluster.lead("m2", "switchover")
            await client.command("again")
        assert ran(cluster) == ["do", "again"]
        assert len(cluster.masters["m1"].batches) >= 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(422, "refused", Refused), (404, "not_found", NotFound), (400, "invalid", Invalid), (500, "failed", NodectlError)],
)
async def test_a_refusal_is_raised_for_its_command_only(status: int, code: str, kind: type[NodectlError]) -> None:
    """A refusal is raised as its type and not retried; the other commands of the request are run."""
    async with fake_cluster() as cluster, client_of(cluster) as client:
        cluster.refuse["bad"] = (status, code, "because")
        outcomes = await asyncio.gather(
            client.command("good"), client.command("bad"), client.command("good"), return_exceptions=True
        )
        assert type(outcomes[1]) is kind
        assert str(outcomes[1]) == "because"
        assert isinstance(outcomes[0], CommandResult)
        assert isinstance(outcomes[2], CommandResult)
        sent = [command["name"] for batch in cluster.leading.batches for command in batch]
        assert sent.count("bad") == 1


async def test_a_request_refused_as_a_whole_is_taken_apart() -> None:
    """One malformed command must not be the end of those that travelled with it."""

    async def picky(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
        if any(command["name"] == "malformed" for command in commands):
            return master.problem(400, "invalid", "malformed")
        return await master.answer(commands)

    async with fake_cluster() as cluster, client_of(cluster) as client:
        cluster.leading.always = picky
        names = ["a", "malformed", "b"]
        outcomes = await asyncio.gather(*(client.command(name) for name in names), return_exceptions=True)
        assert isinstance(outcomes[1], Invalid)
        assert sorted(ran(cluster)) == ["a", "b"]


async def test_unavailable_answers_are_waited_out() -> None:
    """While the leader answers that it cannot commit, the client retries until the command is committed."""

    async def not_now(master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]) -> web.StreamResponse:
        return master.problem(503, "unavailable", "etcd elects")

    async def each_unknown(
        master: FakeMasterd, request: web.Request, commands: list[dict[str, Any]]
    ) -> web.StreamResponse:
        unknown = {"problem": {"code": "outcome_unknown", "status": 504, "detail": "etcd did not answer"}}
        return web.json_response({"results": [unknown for _ in commands], "index": 0})

    async with fake_cluster() as cluster, client_of(cluster) as client:
        cluster.leading.script.extend([not_now, each_unknown, not_now])
        result = await client.command("do")
        assert result.index == 1
        assert len(cluster.leading.batches) == 4


async def test_a_command_that_was_never_sent_is_unavailable_at_the_deadline() -> None:
    """A command that was never sent raises Unavailable, which names the unreachable endpoints."""
    async with fake_cluster("m1") as cluster:
        url = cluster.leading.url
        await cluster.leading.stop()
        async with Client(url, command_timeout_s=2.0) as client:
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1") as caught:
                await client.command("do")
        assert not isinstance(caught.value, CommandOutcomeUnknown)


async def test_at_the_deadline_a_command_that_may_have_run_is_unknown_and_can_be_repeated() -> None:
    """With the id and `after` of the error, the repeat gets the first result. The leader is of a release that cannot be
    asked for the outcome."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        cluster.index, cluster.knows_outcomes = 7, False
        cluster.leading.script.append(lose_answer)
        cluster.leading.always = never_answer
        with pytest.raises(CommandOutcomeUnknown) as caught:
            await client.command("do", timeout_s=3.0)
        assert caught.value.after == 7
        cluster.leading.always = None
        result = await client.command("do", id=caught.value.command_id, after=caught.value.after)
        assert (result.index, result.repeated) == (8, True)
        assert ran(cluster) == ["do"]


async def test_after_alone_is_refused() -> None:
    """Without the id it would be another command."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        with pytest.raises(Invalid, match="id"):
            await client.command("do", after=3)


async def test_arguments_that_are_not_json_are_refused_at_once() -> None:
    """Arguments that are not JSON are refused without a request."""
    async with fake_cluster("m1") as cluster, client_of(cluster) as client:
        with pytest.raises(Invalid, match="JSON"):
            await client.command("do", {"what": object()})
        assert cluster.leading.batches == []


async def test_a_cancelled_command_that_waits_is_not_sent() -> None:
    """Cancelling the caller takes the command out of the queue."""
    async with fake_cluster("m1") as cluster:
        cluster.lead(None)
        async with client_of(cluster) as client:
            waiting = asyncio.create_task(client.command("cancelled"))
            kept = asyncio.create_task(client.command("kept"))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            cluster.lead("m1")
            await kept
        assert ran(cluster) == ["kept"]


async def test_closing_answers_everybody() -> None:
    """What was in flight is unknown, what waited was not sent, and what comes later is refused."""
    async with fake_cluster("m1") as cluster:
        client = client_of(cluster)
        async with client:
            cluster.leading.always = never_answer
            flying = asyncio.create_task(client.command("flying"))
            while not cluster.leading.batches:
                await asyncio.sleep(0.01)
        with pytest.raises(CommandOutcomeUnknown, match="closed"):
            await flying
        with pytest.raises(Unavailable, match="closed"):
            await client.command("late")


async def test_without_a_leader_and_closed_nothing_has_happened() -> None:
    """A command that was never sent ends as Unavailable."""
    async with fake_cluster("m1") as cluster:
        cluster.lead(None)
        client = client_of(cluster)
        async with client:
            waiting = asyncio.create_task(client.command("do"))
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="closed"):
            await waiting
