"""Receives the leader's heartbeats over HTTP (the follow stream), and detects at once that its process died.

If the stream breaks *and* the reconnect is refused, the leader's PC is up and no process listens on the port, so the
process is dead. A break alone proves nothing. But the leader is then challenged without waiting for a refusal, because
Windows retries a refused connection three times, for one or two seconds, before it reports the refusal.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from nodestore.cluster.election import LeaderSeen
from nodestore.errors import Garbage
from nodestore.support.jsonio import loads
from nodestore.support.tls_context import TLS_REQUIRED, has_no_tls_text, needs_tls_text

log = logging.getLogger(__name__)

_RESOLVE_S = 1.0
_CONNECT_S = 1.0
_RETRY_S = 0.25
_BEGIN_AFTER_S = 0.05  # the leader may not have its takeover's reply yet, and should serve waiting clients first
_REFUSAL_S = 0.05
"""Delay between a break and the call of `on_break`. Meanwhile a refused reconnect may show that the process is dead: on
systems that do not retry a refused connection, the refusal arrives within one round trip."""
_READ_TIMEOUT_S = 10.0  # then the stream is reopened; `Suspicion` judges the silence, not this class
_REFUSED = {errno.ECONNREFUSED, 10061, 1225}  # 10061: WSAECONNREFUSED, 1225: ERROR_CONNECTION_REFUSED


@dataclass(frozen=True, slots=True)
class ReceivedHeartbeat:
    """What the leader says: its term, its index, and for how many seconds it has been stuck."""

    term: int
    index: int
    stuck_s: float


def open_session(tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """Open an HTTP session for one follow stream and its reconnects.

    tls: the context for https URLs; None: the system's certificate authorities are trusted.
    """
    timeout = aiohttp.ClientTimeout(
        total=None, connect=_RESOLVE_S + _CONNECT_S, sock_connect=_CONNECT_S, sock_read=_READ_TIMEOUT_S
    )
    # The default of 10 s for DNS keeps an address that has changed.
    connector = aiohttp.TCPConnector(ttl_dns_cache=1, ssl=tls if tls is not None else True)
    return aiohttp.ClientSession(timeout=timeout, connector=connector)


SessionFactory = Callable[[], aiohttp.ClientSession]


class HeartbeatListener:
    """Listens to the heartbeats of the leader of one term. `is_dead` becomes True when its process is known to be dead.

    on_death: called when that happens. on_heartbeat: called at each heartbeat, with the seconds for which the leader
    has not been able to commit. on_break: called _REFUSAL_S after the stream broke, unless a reconnect was accepted or
    refused before.
    """

    def __init__(
        self,
        seen: LeaderSeen,
        on_death: Callable[[], None],
        on_heartbeat: Callable[[float], None] = lambda _: None,
        on_break: Callable[[], None] = lambda: None,
        on_index: Callable[[int], None] = lambda _: None,
        open_session: SessionFactory = open_session,
    ) -> None:
        self.revision = seen.revision
        self.is_dead = False
        self.is_connected = False
        """Whether a heartbeat of this term was received since the last response with an error status. A break of the
        stream does not reset it, because a refusal after the break shows that the process is dead."""
        self._urls = seen.record.urls if seen.record else ()
        self._on_death, self._on_heartbeat, self._on_break = on_death, on_heartbeat, on_break
        self._on_index = on_index
        self._open_session = open_session
        self._had_heartbeat = False
        """Whether a heartbeat was received since the last reconnect."""
        self._has_warned = False
        self._break_timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Listen until cancelled, or until the leader's process is known to be dead."""
        if not self._urls:
            return
        await asyncio.sleep(_BEGIN_AFTER_S)
        try:
            await self._follow()
        finally:
            self._cancel_break_timer()

    def _cancel_break_timer(self) -> None:
        """Do not report the break: the stream is open again, or its cause is known."""
        if self._break_timer is not None:
            self._break_timer.cancel()
            self._break_timer = None

    async def _follow(self) -> None:
        async with self._open_session() as session:
            while not self.is_dead:
                try:
                    await self._listen(session)
                except aiohttp.ClientConnectorCertificateError as error:
                    log.debug("follow stream of term %d: %s", self.revision, error)
                except aiohttp.ClientConnectorError as error:
                    self._warn_of_mismatch(has_no_tls_text(self._urls[0], error))
                    if self.is_connected and _refused(error):
                        self.is_dead = True
                        self._on_death()
                        return
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.debug("follow stream of term %d: %s", self.revision, error)
                    if self._had_heartbeat:
                        self._had_heartbeat = False
                        self._cancel_break_timer()
                        self._break_timer = asyncio.get_running_loop().call_later(_REFUSAL_S, self._on_break)
                        continue  # reconnect at once: a refusal distinguishes a dead process from a lost connection
                await asyncio.sleep(_RETRY_S)

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{self._urls[0]}/v1/follow", params={"term": str(self.revision)}) as response:
            self._cancel_break_timer()
            if response.status != 200:
                self.is_connected = False
                if response.status == TLS_REQUIRED:
                    self._warn_of_mismatch(needs_tls_text(self._urls[0]))
                return
            async for line in response.content:
                heartbeat = parse_heartbeat(line)
                if heartbeat is not None and heartbeat.term == self.revision:
                    self.is_connected = self._had_heartbeat = True
                    self._on_heartbeat(heartbeat.stuck_s)
                    self._on_index(heartbeat.index)
        # The stream ended properly: the term is over, or the process was stopped. The reconnect shows which.

    def _warn_of_mismatch(self, text: str | None) -> None:
        """Log once in a term that the leader's URL has the wrong scheme. None: this was not the cause."""
        if text is not None and not self._has_warned:
            self._has_warned = True
            log.warning("no heartbeats from the leader of term %d: %s", self.revision, text)


def parse_heartbeat(line: bytes) -> ReceivedHeartbeat | None:
    """The heartbeat in one line of the stream. None if it is none, which must not end the election of a standby."""
    try:
        fields = loads(line)
    except Garbage:
        return None
    if not isinstance(fields, dict):
        return None
    term, index, stuck_s = fields.get("term"), fields.get("index", 0), fields.get("stuck_s", 0.0)
    if type(term) is not int or type(index) is not int or type(stuck_s) not in (int, float):
        return None
    try:
        seconds = float(stuck_s)
    except OverflowError:  # a whole number with hundreds of digits
        return None
    return ReceivedHeartbeat(term, index, seconds) if math.isfinite(seconds) else None


def _refused(error: aiohttp.ClientConnectorError) -> bool:
    numbers = {error.os_error.errno, getattr(error.os_error, "winerror", None)}
    return bool(numbers & _REFUSED)
