"""Keeps a connection to the leading masterd, over which the leader reads the log of this node's program.

    leader in etcd -> where to connect             claim -> when: only while this noded holds the node
    request of the leader -> LogReader -> answer   one task for each request, a bounded number of them

A request is for up to 64 KiB, and a reader sends the next one once it has read the answer. So no bytes wait in noded,
and a reader that does not read costs nothing here. None of it touches etcd, except for the watch of `leader`.

The connection is lost when the leader changes, when the claim is lost, or with the network. Then requests in progress
end without an answer, and the reader sends them again: positions in the log are valid on every connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn, Protocol
from urllib.parse import quote

from noded.program_log.log_reader import LogReader
from noded.program_log.websocket import WebSocket, connect
from nodestore.errors import Garbage, NodectlError, Unavailable
from nodestore.schema.api_types import LogPiece
from nodestore.schema.keys import check_name
from nodestore.schema.log_requests import LOG_LINES_MAX, LOG_WAIT_MAX_S, NONCE_HEADER
from nodestore.schema.models import LeaderRecord, decode_value_or_none
from nodestore.support.backoff import Backoff
from nodestore.support.jsonio import Json, dumps, loads
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import background_task, run_until_first_ends
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

REQUESTS_MAX = 16
_CONNECT_TIMEOUT_S = 3.0
_SILENCE_S = 30.0
"""masterd sends a ping every 10 s."""
_RETRY_FIRST_S, _RETRY_MAX_S = 0.2, 15.0
CALM_S = 0.25
"""How long this connection leaves a lost or a new leader alone, with up to as much jitter. The takeover and the
commands that wait for it come first: if all nodes reacted at once, they would take the CPU time of the PCs, and the new
leader would be busy with their connections when it begins to serve."""


class Claimed(Protocol):
    """What the link needs to know of the claim."""

    @property
    def claim_revision(self) -> int | None: ...


class MasterLink:
    """One noded's connection to the leader. `run` never returns and never raises.

    leader_values: yields the value of the key `leader`, None if it is absent, whenever it changes.
    """

    def __init__(
        self,
        node: str,
        nonce: str,
        *,
        leader_values: Callable[[], AsyncGenerator[bytes | None, None]],
        claim: Claimed,
        reader: LogReader,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """tls: the context for masters at https URLs; None: the system's certificate authorities are trusted."""
        self._path = f"/v1/nodes/{quote(check_name('node', node), safe='')}/log-link"
        self._headers = {NONCE_HEADER: nonce}
        self._leader_values, self._claim, self._reader = leader_values, claim, reader
        self._tls = tls
        self._urls: tuple[str, ...] = ()
        self._had_leader = False
        self._changed = asyncio.Event()
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MAX_S, jitter=_jitter)
        self._log_once = RateLimitedLog(log, math.inf)

    def on_claim_changed(self) -> None:
        """Connect if the claim was won; disconnect if it was lost."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Follow the leader and keep the connection, until cancelled."""
        while True:
            try:
                await run_until_first_ends(leader=self._follow_leader(), link=self._keep_connected())
            except Exception:  # a bug here must end neither noded nor what it drives
                log.exception("the connection for the program's log failed")
            await asyncio.sleep(_RETRY_MAX_S)

    async def _follow_leader(self) -> None:
        async with aclosing(self._leader_values()) as values:
            async for value in values:
                urls = _urls_of(value)
                if urls != self._urls:
                    pause_s = _calm_s() if self._had_leader else 0.0
                    self._urls, self._had_leader = urls, self._had_leader or bool(urls)
                    self._backoff.reset()
                    asyncio.get_running_loop().call_later(pause_s, self._changed.set)

    async def _keep_connected(self) -> NoReturn:
        while True:
            self._changed.clear()
            urls = self._urls if self._claim.claim_revision is not None else ()
            if not urls:
                await self._changed.wait()
                continue
            url = urls[self._backoff.failures % len(urls)]
            await run_until_first_ends(link=self._use_link(url), change=self._changed.wait())
            if not self._changed.is_set():
                await set_within(self._changed, self._backoff.next_s())

    async def _use_link(self, url: str) -> None:
        """Connect and answer requests until the connection ends. Logs the reason, once."""
        try:
            link_url = url.rstrip("/") + self._path
            async with connect(link_url, self._headers, timeout_s=_CONNECT_TIMEOUT_S, tls=self._tls) as socket:
                self._backoff.reset()
                self._log_once.reset()
                log.debug("connected to %s for the program's log", url)
                try:
                    await self._serve(socket)
                except Unavailable:
                    await asyncio.sleep(_calm_s())
                    raise
        except NodectlError as error:
            # A master that is stopped or deposed closes the connection, so this is no warning.
            self._log_once.log(logging.INFO, f"no connection for `nodectl node logs`: {error}", about=url)

    async def _serve(self, socket: WebSocket) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                request = _parse_request(await socket.receive(_SILENCE_S))
                if len(tasks) >= REQUESTS_MAX:
                    refusal = Unavailable(f"{REQUESTS_MAX} requests for the log are in progress")
                    await socket.send(_failure(request["id"], refusal))
                    continue
                task = background_task(self._answer(socket, request), name="request for the log")
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, socket: WebSocket, request: Mapping[str, Any]) -> None:
        try:
            found = await self._fetch(request)
            answer = dumps({"id": request["id"], "piece": found})
        except NodectlError as error:
            answer = _failure(request["id"], error)
        except Exception as error:
            log.exception("a request for the program's log failed")
            answer = _failure(request["id"], NodectlError(f"{type(error).__name__}: {error}"))
        try:
            await socket.send(answer)
        except Unavailable as error:  # `receive` fails too, and ends the connection
            log.debug("the answer to a request was not sent: %s", error)

    async def _fetch(self, request: Mapping[str, Any]) -> LogPiece:
        after = request.get("after")
        if after is None:
            return await self._reader.last_lines(max(0, min(int(request.get("lines", 0)), LOG_LINES_MAX)))
        return await self._reader.after(str(after), max(0.0, min(float(request.get("wait_s", 0)), LOG_WAIT_MAX_S)))


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 - spreads the requests of many nodes


def _calm_s() -> float:
    return CALM_S * random.uniform(1.0, 2.0)  # noqa: S311 - spreads the requests of many nodes


def _urls_of(value: bytes | None) -> tuple[str, ...]:
    """The leader's URLs; none if there is no leader, or its record is unreadable."""
    leader = decode_value_or_none(LeaderRecord, value)
    return () if leader is None else leader.urls


def _parse_request(message: bytes) -> dict[str, Any]:
    """Parse a request for the log. Raises Unavailable, which ends the connection, for any other message."""
    try:
        request = loads(message)
    except Garbage as error:
        raise Unavailable(str(error)) from None
    if not isinstance(request, dict) or not isinstance(request.get("id"), int):
        raise Unavailable("the master sent something else than a request for the log")
    return request


def _failure(request_id: Json, error: NodectlError) -> bytes:
    return dumps({"id": request_id, "error": {"code": error.code, "detail": error.message}})
