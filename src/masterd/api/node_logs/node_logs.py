"""The logs of the programs that nodes run, read over the connections that their nodeds keep to the leader.

    client: GET /v1/nodes/NODE/log -> request on noded's connection -> noded reads up to 64 KiB -> answer

Nothing of it goes through etcd or the journal. The connections are in memory and end with the term: each noded then
connects to the next leader. A request has one answer, so the pieces in flight are bounded by the number of requests,
and a client that does not read delays only its own next request. A noded proves which node it drives by the nonce of
its claim, `alive/<node>`. That keeps out a noded that was replaced or has a wrong name; it is no secret.

Between any two lines noded, this masterd or the client may die: a request that is not answered ends in an error, the
client sends another one with its last position, and an answer that arrives too late is dropped, because its id is no
longer known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from masterd.api.node_logs.node_link import NodeLink
from masterd.api.read_sources import ReadSources
from masterd.term.leader import Leader
from nodestore.errors import (
    Denied,
    Invalid,
    LeadershipLost,
    NodectlError,
    NodeUnavailable,
    NotFound,
    NotLeader,
    Overloaded,
)
from nodestore.schema.api_types import NodeLog
from nodestore.schema.log_requests import LOG_LINES, LOG_LINES_MAX, LOG_POSITION, LOG_WAIT_MAX_S, NONCE_HEADER
from nodestore.support.jsonio import dumps
from nodestore.support.tasks import run_until_first_ends
from nodestore.support.tls_files import format_time
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

REQUESTS_OF_NODE_MAX = 8
REQUESTS_MAX = 32
LINKS_MAX = 256
"""Maximum number of connections of nodeds: half of what a masterd admits. The rest is for clients and masterds."""
_ANSWER_BYTES_MAX = 512 << 10
"""Limit for one answer of a noded. 64 KiB of control characters need 384 KiB in JSON: six characters for each."""
_ANSWER_TIMEOUT_S = 4.0
_CONNECT_WAIT_S = 2.0
"""How long a request waits for a noded that runs but is not connected, as after a change of leader."""
_SEND_TIMEOUT_S = 10.0
_PING_S = 10.0
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,3})?", re.ASCII)


class NodeLogs:
    """The connections of nodeds to this leader, and the requests for their programs' logs."""

    def __init__(self, sources: ReadSources) -> None:
        self._sources = sources
        self._links: dict[str, NodeLink] = {}
        self._lost: dict[str, float] = {}
        """When the last connection of a node ended, as seconds since 1970."""
        self._changed = asyncio.Event()
        self._in_progress: dict[str, int] = {}
        """The number of requests in progress, by node."""

    # --- nodeds ---

    async def serve_link(self, request: web.Request, leader_url: str | None) -> web.StreamResponse:
        """Keep the connection of a noded until the term, the claim or the connection ends.

        Raises NotLeader on a standby, Denied for a nonce that is not that of the node's claim, and Overloaded if there
        are too many connections.
        """
        node, nonce = request.match_info["node"], request.headers.get(NONCE_HEADER, "")
        leader = self._sources.leadership.leader
        if leader is None:
            raise NotLeader(f"{self._sources.own_id} is not the leader", leader_url)
        if not nonce or self._nonce_of(node) != nonce:
            raise Denied(f"the noded that connects as {node!r} does not hold the claim on that node")
        if node not in self._links and len(self._links) >= LINKS_MAX:
            raise Overloaded(f"{LINKS_MAX} nodeds are connected already", 5.0)
        socket = web.WebSocketResponse(heartbeat=_PING_S, max_msg_size=_ANSWER_BYTES_MAX, compress=False)
        await socket.prepare(request)
        link = NodeLink(socket, nonce)
        with self._registered(node, link, leader):
            await run_until_first_ends(receive=link.receive(), ended=link.ended.wait())
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1.0):
                await socket.close(message=b"the term, the claim or this connection has ended")
        return socket

    @contextlib.contextmanager
    def _registered(self, node: str, link: NodeLink, leader: Leader) -> Iterator[None]:
        """Use `link` for requests for this node's log; end it when it is replaced, or its term or claim is over."""

        def check() -> None:
            if self._sources.leadership.leader is not leader or self._nonce_of(node) not in (None, link.nonce):
                link.ended.set()

        unsubscribe = self._sources.cluster_view.subscribe(check)
        before, self._links[node] = self._links.get(node), link
        if before is not None:
            before.ended.set()
        self._lost.pop(node, None)
        self._changed.set()
        self._changed = asyncio.Event()
        check()
        try:
            yield
        finally:
            unsubscribe()
            if self._links.get(node) is link:
                del self._links[node]
                self._remember_lost(node)
            is_over = self._sources.leadership.leader is not leader
            link.fail_requests(
                LeadershipLost("the term ended before the node answered")
                if is_over
                else NodeUnavailable("the connection of its noded ended")
            )

    def _nonce_of(self, node: str) -> str | None:
        """The nonce of the claim on this node; None if no noded holds it, or its lease has just expired."""
        alive = self._sources.cluster_view.alive.items.get(node)
        return None if alive is None else alive.nonce

    def _remember_lost(self, node: str) -> None:
        self._lost[node] = time.time()
        while len(self._lost) > LINKS_MAX:
            del self._lost[next(iter(self._lost))]

    # --- clients ---

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Answer with a piece of a node's log, as NodeLog.

        Raises Invalid, NotFound if the node is not configured or keeps no log, NodeUnavailable if it cannot be asked,
        and Overloaded if too many requests are in progress.
        """
        node, query = request.match_info["node"], _parse_request(request)
        if node not in self._sources.replica.state.inventory.nodes:
            raise NotFound(f"there is no node {node!r} in the configuration")
        with self._counted(node):
            try:
                found: NodeLog = {**(await (await self._link_of(node)).fetch(query, _limit_s(query))), "node": node}
            except LeadershipLost:
                raise
            except NodectlError as error:
                raise type(error)(f"node {node}: {error}") from None
            answer = web.Response(body=dumps(found), content_type="application/json")
            return await send_within(request, answer)  # in progress until it is sent

    async def _link_of(self, node: str) -> NodeLink:
        """The connection of this node. If its noded runs, wait a moment until it connects."""
        deadline = time.monotonic() + _CONNECT_WAIT_S
        while (link := self._links.get(node)) is None:
            left_s = deadline - time.monotonic() if self._nonce_of(node) is not None else 0.0
            if left_s <= 0 or not await set_within(self._changed, left_s):
                raise self._not_connected(node)
        return link

    def _not_connected(self, node: str) -> NodeUnavailable:
        if self._nonce_of(node) is None:
            return NodeUnavailable("no noded is connected, so its log cannot be read")
        master, lost = self._sources.own_id, self._lost.get(node)
        if lost is not None:
            return NodeUnavailable(f"its noded has had no connection to master {master} since {format_time(lost)}")
        return NodeUnavailable(
            f"its noded has not connected to master {master} since the term began; its log says why, unless it is an "
            "earlier release, which does not connect"
        )

    @contextlib.contextmanager
    def _counted(self, node: str) -> Iterator[None]:
        of_node = self._in_progress.get(node, 0)
        if of_node >= REQUESTS_OF_NODE_MAX or sum(self._in_progress.values()) >= REQUESTS_MAX:
            raise Overloaded(
                f"too many requests for logs wait (limits: {REQUESTS_OF_NODE_MAX} for a node, {REQUESTS_MAX} in all)",
                1.0,
            )
        self._in_progress[node] = of_node + 1
        try:
            yield
        finally:
            self._in_progress[node] -= 1
            if not self._in_progress[node]:
                del self._in_progress[node]


def _limit_s(query: dict[str, Any]) -> float:
    return float(query.get("wait_s", 0.0)) + _ANSWER_TIMEOUT_S


def _parse_request(request: web.Request) -> dict[str, Any]:
    query = request.query
    after, wait_s = query.get("after"), _number(query.get("wait_s", "0"), "wait_s", LOG_WAIT_MAX_S)
    lines = _number(query.get("lines", str(LOG_LINES)), "lines", LOG_LINES_MAX)
    if not lines.is_integer():
        raise Invalid(f"lines: expected a whole number, got {lines:g}")
    if after is None:
        return {"lines": int(lines)}
    if re.fullmatch(LOG_POSITION, after) is None:
        raise Invalid(f"after: expected the position of a piece of the log, got {after[:80]!r}")
    return {"after": after, "wait_s": wait_s}


def _number(text: str, name: str, most: float) -> float:
    if _NUMBER.fullmatch(text) is None or float(text) > most:
        raise Invalid(f"{name}: expected a number from 0 to {most:g}, got {text[:40]!r}")
    return float(text)


async def send_within(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """Send `answer`, unless it was sent already. A client that takes no data for 10 s is disconnected."""
    try:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await answer.prepare(request)
            await answer.write_eof()
    except TimeoutError:
        log.info("a client of %s that reads nothing is disconnected", request.path)
        if request.transport is not None:
            request.transport.abort()
    return answer
