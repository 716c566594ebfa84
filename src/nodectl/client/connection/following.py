"""Event streams that continue across changes of leader, without end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from nodectl.client.connection.backoff import backoff
from nodectl.client.connection.errors import Broken
from nodectl.client.connection.http import Http
from nodectl.client.connection.leadership import Leader, Leadership
from nodectl.client.connection.requests import Requests
from nodectl.client.connection.results import NodeChanges
from nodectl.client.connection.sse import ServerSentEvent, read_events
from nodectl.client.connection.state import ConnectionState
from nodestore.errors import Garbage, TooOld, Unavailable
from nodestore.support.jsonio import loads

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0  # a stream that waits for a leader checks this often whether its client was closed


class StreamFollower:
    """The streams of one client: the journal, the live state, and the nodes."""

    def __init__(self, http: Http, requests: Requests, leadership: Leadership, state: ConnectionState) -> None:
        self._http, self._requests, self._leadership, self._state = http, requests, leadership, state

    async def journal(self, after: int | str | None) -> AsyncGenerator[dict[str, Any], None]:
        """See Client.journal."""
        position = str(after) if after is not None else await self._current_position()
        async with contextlib.aclosing(self._events(lambda: f"/v1/events?after={position}")) as stream:
            async for _, event in stream:
                if event.name == "gone":
                    raise TooOld(str(loads(event.data, "event").get("detail")))
                if event.name == "command":
                    command = loads(event.data, "event")
                    known = int(position.rpartition(".")[2])
                    if command["index"] <= known:
                        continue
                    if command["index"] > known + 1:
                        raise Garbage(f"the stream of the journal skips from index {known} to {command['index']}")
                    position = event.id or str(command["index"])
                    yield {**command, "position": position}
                elif event.id:  # the position at which the stream begins, which includes the epoch
                    position = event.id

    async def live(self) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """See Client.live."""
        # The earlier name of /v1/cluster/watch: masterds of earlier releases serve only this one.
        async with contextlib.aclosing(self._events(lambda: "/v1/live")) as stream:
            async for _, event in stream:
                yield event.name, loads(event.data, "event")

    async def nodes(self) -> AsyncGenerator[NodeChanges, None]:
        """See Client.watch_nodes."""
        async with contextlib.aclosing(self._events(lambda: "/v1/nodes/watch")) as stream:
            async for first, event in stream:
                yield NodeChanges(first, loads(event.data, "event")["nodes"])

    async def _events(self, path: Callable[[], str]) -> AsyncGenerator[tuple[bool, ServerSentEvent], None]:
        """Yield (is first of its connection, event) from GET `path()` at the current leader; reconnect without end."""
        pauses = backoff()
        while True:
            leader = await self._leader()
            first = True
            try:
                url = leader.url + path()
                events = read_events(self._http.session, url, self._http.headers_for(url))
                async with contextlib.aclosing(events) as stream:
                    async for event in stream:
                        yield first, event
                        first = False
                        if event.data:
                            pauses.reset()
            except (Broken, Unavailable) as error:
                log.debug("the stream %s of %s ended: %s", path(), leader.id, error)
                self._leadership.mark_doubtful()
            await asyncio.sleep(pauses.next_s())

    async def _leader(self) -> Leader:
        while True:
            self._check_open()
            with contextlib.suppress(Unavailable):  # streams wait until an outage is over; `state` shows it
                return await self._requests.leader(_PATIENCE_S)

    async def _current_position(self) -> str:
        """Return the current position of the journal, as of a linearizable read."""
        while True:
            self._check_open()
            with contextlib.suppress(Unavailable):
                answer = await self._requests.to_leader("GET", "/v1/leader", timeout_s=_PATIENCE_S)
                return f"{answer['term']['epoch']}.{answer['index']}"

    def _check_open(self) -> None:
        if self._state.is_closed:
            raise Unavailable("the client was closed")
