"""Errors of a request from one masterd to another."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from masterd.roles.peers import PeerClient
from nodestore.errors import OutcomeUnknown, Unavailable
from tests.support.etcd_cluster import free_ports


async def test_an_order_that_was_heard_but_not_answered_may_be_obeyed() -> None:
    """A question is just not answered."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    http = PeerClient()
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(OutcomeUnknown, match="did not answer"):
            await http.post(f"http://{host}:{port}/v1/campaign", {"revision": 7}, 20.0)
        with pytest.raises(Unavailable, match="did not answer"):
            await http.get(f"http://{host}:{port}/v1/health", 20.0)
    await http.close()


async def test_an_order_to_whom_nobody_can_reach_is_surely_not_obeyed() -> None:
    """The next one can be asked."""
    http, (port,) = PeerClient(), free_ports(1)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await http.post(f"http://127.0.0.1:{port}/v1/campaign", {"revision": 7}, 20.0)
    await http.close()


@pytest.mark.parametrize(
    "target", ["/v1/documents/../follow?consistency=local", "/v1/documents/a%2Fb../%C3%A9?x=a+b%26", "/v1/nodes/.."]
)
async def test_a_request_is_forwarded_to_the_path_that_was_received(target: str) -> None:
    """If `..` were resolved, the leader would serve another route: of a stream, this masterd would wait for the end."""
    received: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode())
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /v1/elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    http = PeerClient()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        answer = await http.forward(_without_body(target), f"http://{host}:{port}", "m1")
    await http.close()
    assert (received, answer.status) == ([target], 302)  # and a redirect is not followed


def _without_body(target: str) -> web.Request:
    request = make_mocked_request("GET", target)
    request._read_bytes = b""
    return request
