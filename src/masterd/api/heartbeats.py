"""Streams the leader's heartbeats to standbys.

All streams share one timer and one encoded line: sending heartbeats is most of the work of an idle leader.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from masterd.api import event_streams
from masterd.replication.replica import Replica
from masterd.roles.leadership import Leadership
from nodestore.errors import NotLeader
from nodestore.schema.api_types import Heartbeat
from nodestore.support.jsonio import dumps

_Beat = tuple[int, int, float]
"""Revision of the term, index, and seconds for which the leader has been stuck."""


class Heartbeats:
    """Streams heartbeats while this masterd leads, in each of its terms."""

    def __init__(self, own_id: str, leadership: Leadership, replica: Replica, interval_s: float) -> None:
        self._own_id, self._leadership, self._replica, self._interval_s = own_id, leadership, replica, interval_s
        self._next: asyncio.Event | None = None
        self._encoded: _Beat = (0, 0, 0.0)
        """The values that `_line` holds."""
        self._line = b""

    async def stream(self, request: web.Request, leader_url: str | None) -> web.StreamResponse:
        """Send heartbeats of the present term until it ends. Raises NotLeader, with `leader_url`, on a standby."""
        leader = self._leadership.leader
        if leader is None:
            raise NotLeader(f"{self._own_id} is not the leader", leader_url)
        async with event_streams.open_stream(request, "application/x-ndjson") as response:
            while self._leadership.leader is leader:
                beat = leader.fence.term.revision, self._replica.index, round(self._leadership.stuck_s, 3)
                await response.write(self._line_of(beat))
                await self._wait_next()
        return response

    def _line_of(self, beat: _Beat) -> bytes:
        if beat != self._encoded or not self._line:
            term, index, stuck_s = beat
            heartbeat: Heartbeat = {"term": term, "index": index, "stuck_s": stuck_s}
            self._encoded, self._line = beat, dumps(heartbeat) + b"\n"
        return self._line

    async def _wait_next(self) -> None:
        if self._next is None:
            self._next = asyncio.Event()
            asyncio.get_running_loop().call_later(self._interval_s, self._wake_streams)
        await self._next.wait()

    def _wake_streams(self) -> None:
        due, self._next = self._next, None
        if due is not None:
            due.set()
