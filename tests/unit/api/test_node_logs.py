"""Requests for the logs of nodes' programs through a masterd, with a noded that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from masterd.api.node_logs import node_logs
from masterd.state_machine.state import AdoptedConfig
from nodestore.schema.models import Alive, ConfigRecord, Inventory, NodeConfig
from nodestore.support.jsonio import loads
from tests.support.fakes.masterd_parts import FakeMasterd, serving
from tests.support.waiting import eventually

PIECE = {"text": "hello\n", "position": "1-6-00000000", "at_end": True, "note": ""}
LOG = "/v1/nodes/n1/log"


class Node:
    """A cluster with a node n1, whose noded the test plays, and a client."""

    def __init__(self, masterd: FakeMasterd, url: str, session: aiohttp.ClientSession) -> None:
        self.masterd, self.url, self.session = masterd, url, session

    def claim(self, nonce: str | None) -> None:
        items = self.masterd.view.alive.items
        items.pop("n1", None)
        if nonce is not None:
            items["n1"] = Alive(host_id="h", nonce=nonce, host="pc1")
        self.masterd.view.notify()

    @asynccontextmanager
    async def link(self, nonce: str = "a", node: str = "n1") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        headers = {"Nodectl-Nonce": nonce}
        async with self.session.ws_connect(f"{self.url}/v1/nodes/{node}/log-link", headers=headers) as found:
            yield found

    async def get(self, query: str = "", path: str = LOG) -> tuple[int, dict[str, Any]]:
        async with self.session.get(f"{self.url}{path}{query}") as answer:
            found = loads(await answer.read())
            assert isinstance(found, dict)
            return answer.status, found


@asynccontextmanager
async def cluster() -> AsyncIterator[Node]:
    masterd = FakeMasterd()
    masterd.lead()
    inventory = Inventory(nodes={"n1": NodeConfig(), "n2": NodeConfig()})
    record = ConfigRecord(version=1, actor="test", time=0.0, inventory={})
    masterd.replica.state.adopted = AdoptedConfig(record, 1, 1, inventory)
    async with serving(masterd) as url, aiohttp.ClientSession() as session:
        node = Node(masterd, url, session)
        node.claim("a")
        yield node


async def _answer(link: aiohttp.ClientWebSocketResponse, **answer: Any) -> dict[str, Any]:
    """Answer the next request, and return that."""
    request: dict[str, Any] = await link.receive_json()
    await link.send_json({"id": request["id"], **answer})
    return request


async def test_a_request_is_passed_to_noded_and_its_piece_is_the_answer() -> None:
    async with cluster() as node, node.link() as link:
        for query, expected in (
            ("", {"lines": 100}),
            ("?lines=7", {"lines": 7}),
            ("?after=1-6-00000000", {"after": "1-6-00000000", "wait_s": 0}),
            ("?after=none&wait_s=2.5", {"after": "none", "wait_s": 2.5}),
        ):
            asked = asyncio.create_task(node.get(query))
            request = await _answer(link, piece=PIECE)
            assert {name: value for name, value in request.items() if name != "id"} == expected
            assert await asked == (200, {**PIECE, "node": "n1"})


@pytest.mark.parametrize(
    "query",
    [
        "?lines=-1",
        "?lines=10001",
        "?lines=x",
        "?lines=1.5",
        "?wait_s=5",
        "?wait_s=nan",
        "?after=",
        "?after=/etc/x",
    ],
)
async def test_a_malformed_request_is_refused(query: str) -> None:
    async with cluster() as node:
        status, problem = await node.get(query)
        assert (status, problem["code"]) == (400, "invalid")


async def test_errors_of_noded_name_the_node() -> None:
    async with cluster() as node, node.link() as link:
        asked = asyncio.create_task(node.get())
        await _answer(link, error={"code": "not_found", "detail": "driver exec keeps no log here"})
        status, problem = await asked
        assert (status, problem["detail"]) == (404, "node n1: driver exec keeps no log here")


async def test_who_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown node, one without a noded, one that never connected, and one whose connection was lost."""
    monkeypatch.setattr(node_logs, "_CONNECT_WAIT_S", 0.05)
    async with cluster() as node:
        assert (await node.get(path="/v1/nodes/n9/log"))[0] == 404
        status, problem = await node.get(path="/v1/nodes/n2/log")
        assert (status, problem["code"]) == (503, "node_unavailable")
        assert "node n2: no noded is connected" in problem["detail"]
        assert "has not connected to master m1 since the term began" in (await node.get())[1]["detail"]
        async with node.link():
            pass

        async def lost() -> bool:
            return "has had no connection to master m1 since 20" in (await node.get())[1]["detail"]

        await eventually(lost, "the loss is mentioned")


async def test_a_request_waits_a_moment_for_a_noded_that_runs() -> None:
    """As right after a change of leader."""
    async with cluster() as node:
        asked = asyncio.create_task(node.get())
        await asyncio.sleep(0.1)
        async with node.link() as link:
            await _answer(link, piece=PIECE)
            assert (await asked)[0] == 200


async def test_only_the_noded_that_holds_the_claim_may_connect() -> None:
    async with cluster() as node:
        for nonce, name in (("b", "n1"), ("", "n1"), ("a", "n2")):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                async with node.link(nonce, name):
                    pass


async def test_a_connection_ends_with_its_claim_its_term_or_another_connection() -> None:
    """A request in progress fails at once. A lease that has just expired ends nothing: noded claims the node again."""
    async with cluster() as node:
        async with node.link() as link:
            node.claim(None)
            asked = asyncio.create_task(node.get())
            await _answer(link, piece=PIECE)
            assert (await asked)[0] == 200
            asked = asyncio.create_task(node.get())
            await link.receive_json()
            node.claim("b")
            assert (await link.receive()).type is aiohttp.WSMsgType.CLOSE
            assert (await asked)[1]["code"] == "node_unavailable"
        async with node.link("b") as first, node.link("b") as second:
            assert (await first.receive()).type is aiohttp.WSMsgType.CLOSE
            asked = asyncio.create_task(node.get())
            await _answer(second, piece=PIECE)
            assert (await asked)[0] == 200
            asked = asyncio.create_task(node.get())
            await second.receive_json()
            node.masterd.leadership.leader = None
            node.masterd.view.notify()
            assert (await second.receive()).type is aiohttp.WSMsgType.CLOSE
            assert (await asked)[1]["code"] in ("leadership_lost", "not_leader")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            async with node.link("b"):
                pass


async def test_a_noded_that_does_not_answer_costs_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late answer is dropped, and the next request gets its own."""
    monkeypatch.setattr(node_logs, "_ANSWER_TIMEOUT_S", 0.1)
    async with cluster() as node, node.link() as link:
        assert (await node.get())[1]["detail"] == "node n1: its noded did not answer within 0.1 s"
        monkeypatch.setattr(node_logs, "_ANSWER_TIMEOUT_S", 10.0)
        await _answer(link, piece={**PIECE, "text": "late"})
        asked = asyncio.create_task(node.get())
        await _answer(link, piece=PIECE)
        assert (await asked)[1]["text"] == "hello\n"


@pytest.mark.parametrize("answer", ["[]", "7", "x", '{"id": 1}', '{"id": 1, "piece": {"text": 5}}', '{"id": []}'])
async def test_what_is_no_answer_ends_the_connection(answer: str) -> None:
    async with cluster() as node, node.link() as link:
        asked = asyncio.create_task(node.get())
        await link.receive_json()
        await link.send_str(answer)
        assert (await link.receive()).type is aiohttp.WSMsgType.CLOSE
        assert (await asked)[1]["code"] == "node_unavailable"


async def test_an_answer_that_is_too_long_ends_the_connection() -> None:
    async with cluster() as node, node.link() as link:
        asked = asyncio.create_task(node.get())
        await _answer(link, piece={**PIECE, "text": "x" * (600 << 10)})
        assert (await asked)[1]["code"] == "node_unavailable"


async def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a node and for the master. One that has ended makes room."""
    monkeypatch.setattr(node_logs, "REQUESTS_MAX", node_logs.REQUESTS_OF_NODE_MAX + 1)
    async with cluster() as node, node.link() as link:
        asked = [asyncio.create_task(node.get()) for _ in range(node_logs.REQUESTS_OF_NODE_MAX)]
        requests = [await link.receive_json() for _ in asked]
        status, problem = await node.get()
        assert (status, problem["code"]) == (503, "unavailable")
        assert (await node.get(path="/v1/nodes/n2/log"))[1]["code"] == "node_unavailable"
        for request in requests:
            await link.send_json({"id": request["id"], "piece": PIECE})
        assert [status for status, _ in await asyncio.gather(*asked)] == [200] * len(asked)
        last = asyncio.create_task(node.get())
        await _answer(link, piece=PIECE)
        assert (await last)[0] == 200


async def _read_to_the_end(reader: asyncio.StreamReader) -> int:
    count = 0
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 20):
            count += len(chunk)
    return count


async def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that exceeds what the kernel buffers stands for several connections of such a client."""
    monkeypatch.setattr(node_logs, "_SEND_TIMEOUT_S", 0.2)
    ended = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await node_logs.send_within(request, web.Response(body=b"x" * (64 << 20)))
        finally:
            ended.set()

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1_024)
        writer.write(b"GET / HTTP/1.1\r\nHost: m1\r\n\r\n")
        async with asyncio.timeout(10.0):
            await ended.wait()
            assert await _read_to_the_end(reader) < 64 << 20
        writer.transport.abort()
    finally:
        await runner.cleanup()
