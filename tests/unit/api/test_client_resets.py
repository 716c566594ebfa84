"""A client that resets its connection causes no line in the log, whatever its request is and whenever it does so."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientConnectionResetError, web

from masterd.api.heartbeats import Heartbeats
from masterd.api.routes import Api
from tests.support.fakes.masterd_parts import FakeMasterd, serving

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: close sends RST."""
_HEAD = b"HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_REQUESTS = {
    "heartbeats": b"GET /v1/follow " + _HEAD + b"\r\n",
    "answered": b"GET /v1/health " + _HEAD + b"\r\n",
    "half a body": b"POST /v1/commands " + _HEAD + b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{",
    "continue": b"POST /v1/commands " + _HEAD + b"Expect: 100-continue\r\nContent-Length: 20\r\n\r\n",
    "websocket": b"GET /v1/nodes/n1/log-link " + _HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
}


async def _reset(url: str, sent: bytes, after_s: float) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(sent)
        await asyncio.sleep(after_s)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG or record.exc_info]


@pytest.mark.parametrize("after_s", [0.0, 0.01])
@pytest.mark.parametrize("name", _REQUESTS)
async def test_a_reset_is_not_logged(name: str, after_s: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "masterd")
    masterd = FakeMasterd()
    masterd.lead()
    async with serving(masterd) as url:
        await _reset(url, _REQUESTS[name], after_s)
        await asyncio.sleep(0.15)
    assert _loud(caplog) == []


@pytest.mark.parametrize("where", ["in the handler", "in the middleware", "after the answer has begun"])
async def test_a_write_to_a_connection_that_closes_is_not_logged(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp raises ClientConnectionResetError at whichever place writes then, also before the connection is known to
    be lost. A real reset meets each of these places only by chance."""
    caplog.set_level(logging.DEBUG, "masterd")
    error = ClientConnectionResetError("Cannot write to closing transport")

    async def fails(*_: Any, **__: Any) -> web.StreamResponse:
        raise error

    async def fails_late(_: Any, request: web.Request, __: Any) -> web.StreamResponse:
        await web.StreamResponse().prepare(request)
        raise error

    if where == "in the middleware":
        monkeypatch.setattr(Api, "_note_progress", web.middleware(fails))
    else:
        monkeypatch.setattr(Heartbeats, "stream", fails if where == "in the handler" else fails_late)
    masterd = FakeMasterd()
    masterd.lead()
    async with serving(masterd) as url:
        await _reset(url, _REQUESTS["heartbeats"], 0.1)
    assert _loud(caplog) == []
