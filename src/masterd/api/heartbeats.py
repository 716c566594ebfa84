"""The leader's heartbeats: one timer and one line for all standbys that listen. At rest it does little else."""

from __future__ import annotations

import asyncio

from aiohttp import web

from masterd.api import event_streams
from masterd.roles.master import Master
from nodestore.errors import NotLeader
from nodestore.schema.api_types import Heartbeat
from nodestore.support.jsonio import dumps

_Heartbeat = tuple[int, int, float]


class Heartbeats:
    """Of one masterd, over all its terms."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._next: asyncio.Event | None = None
        self._last_sent: _Heartbeat = (0, 0, 0.0)
        self._line = b""

    async def stream(self, request: web.Request, leader_url: str | None) -> web.StreamResponse:
        """Heartbeats of the present term, until it is over. NotLeader, with who leads, when this masterd does not."""
        leader = self._master.leader
        if leader is None:
            raise NotLeader(f"{self._master.me.id} does not lead", leader_url)
        async with event_streams.open_stream(request, "application/x-ndjson") as response:
            while self._master.leader is leader:
                told = leader.fence.term.revision, self._master.replica.index, round(self._master.stuck_s, 3)
                await response.write(self._line_of(told))
                await self._until_next()
        return response

    def _line_of(self, told: _Heartbeat) -> bytes:
        if told != self._last_sent or not self._line:
            term, index, stuck_s = told
            beat: Heartbeat = {"term": term, "index": index, "stuck_s": stuck_s}
            self._last_sent, self._line = told, dumps(beat) + b"\n"
        return self._line

    async def _until_next(self) -> None:
        if self._next is None:
            self._next = asyncio.Event()
            asyncio.get_running_loop().call_later(self._master.timing.beat_s, self._beat)
        await self._next.wait()

    def _beat(self) -> None:
        due, self._next = self._next, None
        if due is not None:
            due.set()
