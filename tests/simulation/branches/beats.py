"""The network between masterds: a standby's HTTP sessions, in which it receives the leader's heartbeats.

It replaces aiohttp's session and nothing else: masterd's own listener, with its timers and its conclusions, runs above
it. Each PC has one address, `http://<name>`.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, cast

import aiohttp
from aiohttp.client_reqrep import ConnectionKey

from nodestore.support.jsonio import dumps

if TYPE_CHECKING:
    from tests.simulation.world import Pc, World

_LATENCY_S = 0.0005
_OK, _MISDIRECTED = 200, 421


def address_of(name: str) -> str:
    return f"http://{name}"


class Session:
    """The HTTP session of one standby."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    @asynccontextmanager
    async def get(self, url: str, params: dict[str, str]) -> AsyncIterator[Response]:
        """Connect to the PC of this URL. Refused if no masterd runs there; no answer while the PC is silent."""
        await asyncio.sleep(_LATENCY_S)
        pc = self._world.running.get(url.removeprefix("http://").partition("/")[0])
        if pc is None:
            key = cast(ConnectionKey, None)
            raise aiohttp.ClientConnectorError(key, OSError(errno.ECONNREFUSED, "connection refused"))
        while pc.silent:
            await asyncio.sleep(self._world.beat_s)
        yield Response(self._world, pc)


class Response:
    """The answer to GET /v1/follow: heartbeats while the PC leads."""

    def __init__(self, world: World, pc: Pc) -> None:
        self._world, self._pc = world, pc
        self._leader = pc.parts.leadership.leader
        self.status = _MISDIRECTED if self._leader is None else _OK

    @property
    def content(self) -> AsyncIterator[bytes]:
        return self._heartbeats()

    async def _heartbeats(self) -> AsyncIterator[bytes]:
        """A heartbeat each `beat_s`. The stream breaks if the process dies, and ends with the term."""
        leadership, leader = self._pc.parts.leadership, self._leader
        while leader is not None and leadership.leader is leader and not self._pc.crashed:
            if not self._pc.silent:
                yield dumps({"term": leader.fence.term.revision, "index": 0, "stuck_s": leadership.stuck_s})
            await asyncio.sleep(self._world.beat_s)
        if self._pc.crashed:
            raise aiohttp.ClientPayloadError("the connection was reset")


def session_of(world: World) -> Any:
    """A factory of sessions, for `build_parts`."""
    return lambda: Session(world)
