"""Errors of a request from one masterd to another."""

from __future__ import annotations

import asyncio

import pytest

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
