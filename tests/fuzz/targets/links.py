"""What the other end of a connection sends: a master to noded's program log, and events to a client."""

from __future__ import annotations

import asyncio
import math
import secrets
from typing import Any
from unittest import mock

from masterd.election.heartbeat_listener import parse_heartbeat
from nodectl.client.connection.sse import parse_event
from noded.program_log import websocket
from nodestore.errors import NodectlError, Unavailable
from tests.fuzz.target import Target

_NONCE = bytes(16)
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
"""The answer that noded expects, if its random key is _NONCE."""


class _Writer:
    """The sending half of a connection: takes everything."""

    transport = mock.Mock()

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


def _node_link(data: bytes) -> None:
    """The answer to noded's request, then frames. Accepted: at least one message was received."""
    messages: list[bytes] = []
    try:
        asyncio.run(_receive(data, messages))
    except Unavailable:  # at the latest where the data end
        if not messages:
            raise


async def _receive(data: bytes, messages: list[bytes]) -> None:
    async def opened(*_: Any, limit: int, **__: Any) -> Any:
        reader = asyncio.StreamReader(limit=limit)
        reader.feed_data(data)
        reader.feed_eof()
        return reader, _Writer()

    with mock.patch.object(asyncio, "open_connection", opened), mock.patch.object(secrets, "token_bytes", bytes):
        async with websocket.connect("http://10.0.0.1:8401/v1/nodes/n1/log-link", {}, timeout_s=5.0) as link:
            while True:
                messages.append(await link.receive(5.0))


def _event(data: bytes) -> None:
    parse_event(data)


def _heartbeat(data: bytes) -> None:
    """A heartbeat has numbers that the election can compute with."""
    found = parse_heartbeat(data)
    assert found is None or (math.isfinite(found.stuck_s) and isinstance(found.index, int))


TARGETS = (
    Target("heartbeats", _heartbeat, (), ('{"term":', '"index":', '"stuck_s":', "1e999", "[")),
    Target(
        "node-links",
        _node_link,
        (NodectlError,),
        ("HTTP/1.1 ", "101", "\r\n", "\r\n\r\n", "content-length: ", ACCEPTED.decode(), '{"code": "denied"}'),
    ),
    Target("events", _event, (), ("data: ", "event: ", "id: ", "\n")),
)
