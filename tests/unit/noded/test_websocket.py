"""noded's WebSocket client against aiohttp's server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from masterd.api.problems import problem_response
from noded.program_log.websocket import connect
from nodestore.errors import Denied, Invalid, Unavailable
from nodestore.processes import child_processes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TIMEOUT_S = 10.0


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/link", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}/link"
    finally:
        await runner.cleanup()


async def _echo(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(heartbeat=0.1)
    await socket.prepare(request)
    await socket.send_str(request.headers["Who"])
    async for message in socket:
        await socket.send_str(message.data)
    return socket


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535])
async def test_messages_arrive_as_they_were_sent(length: int) -> None:
    text = ("0123456789" * (length // 10 + 1))[:length].encode()
    async with serving(_echo) as url, connect(url, {"Who": "n1"}, timeout_s=TIMEOUT_S) as socket:
        assert await socket.receive(TIMEOUT_S) == b"n1"
        await socket.send(text)
        assert await socket.receive(TIMEOUT_S) == text


async def test_a_message_to_the_server_may_be_longer_than_two_bytes_of_length() -> None:
    async def measure(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(str(len((await socket.receive()).data)))
        return socket

    async with serving(measure) as url, connect(url, {}, timeout_s=TIMEOUT_S) as socket:
        await socket.send(b"x" * 400_000)
        assert await socket.receive(TIMEOUT_S) == b"400000"
        with pytest.raises(Unavailable, match="closed the connection"):
            await socket.receive(TIMEOUT_S)


async def test_pings_are_answered_while_there_are_no_messages() -> None:
    """The server sends a ping every 0.1 s here, and closes the connection if it is not answered in half of that."""
    async with serving(_echo) as url, connect(url, {"Who": "n1"}, timeout_s=TIMEOUT_S) as socket:
        await socket.receive(TIMEOUT_S)
        waiting = asyncio.create_task(socket.receive(TIMEOUT_S))
        assert await asyncio.wait({waiting}, timeout=1.0) == (set(), {waiting})
        await socket.send(b"still here")
        assert await waiting == b"still here"


async def test_a_refusal_is_the_error_that_it_names() -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return problem_response(Denied("wrong nonce"))

    async def missing(_: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound

    async with serving(refuse) as url:
        with pytest.raises(Denied, match="wrong nonce"):
            async with connect(url, {}, timeout_s=TIMEOUT_S):
                pass
    async with serving(missing) as url:
        with pytest.raises(Unavailable, match="HTTP 404"):
            async with connect(url, {}, timeout_s=TIMEOUT_S):
                pass


@asynccontextmanager
async def _answering(answer: bytes) -> AsyncIterator[str]:
    """A server that answers each request with these bytes and then says nothing more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}/link"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "no answer within"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        ("HTTP/1.1 101\u00b9 OK\r\n\r\n".encode("latin-1"), "not HTTP"),
        (b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 403 No\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", "HTTP 403"),
        (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: wrong\r\n\r\n", "not a WebSocket"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "HTTP 200"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 300_000, "limit|chunk|separator"),
    ],
)
async def test_a_server_that_speaks_something_else_is_unavailable(answer: bytes, error: str) -> None:
    async with _answering(answer) as url:
        with pytest.raises(Unavailable, match=error):
            async with connect(url, {}, timeout_s=0.5):
                pass


async def test_silence_and_long_frames_end_the_connection() -> None:
    is_over = asyncio.Event()

    async def send(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if "Long" in request.headers:
            await socket.send_str("x" * 70_000)
        await is_over.wait()
        return socket

    async with serving(send) as url:
        async with connect(url, {}, timeout_s=TIMEOUT_S) as socket:
            with pytest.raises(Unavailable, match=r"sent nothing for 0\.1 s"):
                await socket.receive(0.1)
        async with connect(url, {"Long": "yes"}, timeout_s=TIMEOUT_S) as socket:
            with pytest.raises(Unavailable, match="too long"):
                await socket.receive(TIMEOUT_S)
        is_over.set()


def test_noded_loads_no_http_library() -> None:
    """aiohttp would take a quarter of its memory."""
    script = "import sys, noded.daemon; sys.exit('aiohttp' in sys.modules)"
    assert child_processes.run([sys.executable, "-c", script], timeout_s=60.0).returncode == 0


async def test_nothing_listens() -> None:
    with pytest.raises(Unavailable):
        async with connect("http://127.0.0.1:1/link", {}, timeout_s=TIMEOUT_S):
            pass


@pytest.mark.parametrize("url", ["", "n1:80", "ftp://n1/link", "http://n1:x/link", "http:///link", "http://n1/a\r\nb"])
async def test_a_malformed_url_is_invalid(url: str) -> None:
    with pytest.raises(Invalid):
        async with connect(url, {}, timeout_s=TIMEOUT_S):
            pass
