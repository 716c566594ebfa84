"""Applies `admission` to the connections of the HTTP server: how many there are, and how long each may take.

A connection that is refused gets an answer without being parsed. One clock for all connections closes those that send
no request, or no end of one, or read no answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader, web

from masterd.api.admission import Admission, Caller, ConnectionClock, ConnectionPhase
from masterd.api.problems import closing_answer, problem_response
from nodestore.errors import Invalid, NodectlError, Overloaded, TooLarge
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.5
_COMMANDS = b"POST /v1/commands"


class ConnectionGuard:
    """Admits connections, and closes those that exceed a time limit.

    caller_of: what is known of an address. commands_refused: why no command can be accepted now, or None.
    """

    def __init__(
        self,
        admission: Admission,
        caller_of: Callable[[str], Caller],
        commands_refused: Callable[[], NodectlError | None],
    ) -> None:
        self.admission, self.caller_of, self.commands_refused = admission, caller_of, commands_refused
        self._open: set[GuardedConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.limited_log = RateLimitedLog(log, 60.0)

    def add(self, connection: GuardedConnection) -> None:
        """Watch the time limits of this connection until `remove`."""
        self._open.add(connection)
        if self._timer is None:
            self._schedule()

    def remove(self, connection: GuardedConnection) -> None:
        self._open.discard(connection)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY_S, self._check)

    def _check(self) -> None:
        self._timer = None
        now = time.monotonic()
        for connection in tuple(self._open):
            connection.end_if_expired(now)
        if self._open:
            self._schedule()


class GuardedConnection(web.RequestHandler):
    """A connection of the HTTP server that the guard admitted, or refused."""

    __slots__ = ("_address", "_clock", "_guard", "_is_admitted", "_is_fresh", "_pipe", "_unread")

    def __init__(self, server: web.Server, guard: ConnectionGuard, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._guard, self._is_admitted, self._address = guard, False, ""
        self._clock = ConnectionClock(guard.admission.limits, time.monotonic())
        self._pipe: asyncio.Transport | None = None
        self._is_fresh = True
        """Whether no request was begun yet, so that an answer written here cannot be taken for that of another one."""
        self._unread: StreamReader | None = None

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self._address, self._pipe = str(peer[0]) if isinstance(peer, tuple) else "", transport
        refusal = self._guard.admission.connect(self._address, self._guard.caller_of(self._address))
        if refusal is not None:
            self._guard.limited_log.log(logging.WARNING, f"refusing connections: {refusal}", about="connections")
            self._end_with(transport, Overloaded(refusal, 1.0))
            return
        self._is_admitted = True
        self._guard.add(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_admitted or self._pipe is None or self._pipe.is_closing():
            return
        # The cheapest refusal, so that refusing many requests leaves time for the others: nothing is parsed.
        if self._is_fresh and data.startswith(_COMMANDS) and (refusal := self._guard.commands_refused()) is not None:
            self._end_with(self._pipe, refusal)
            return
        self._is_fresh = False
        if not self._clock.received(data, time.monotonic()):
            head_max = self._guard.admission.limits.head_bytes_max
            self._end_with(self._pipe, TooLarge(f"the headers of the request exceed {head_max} bytes"), 431)
            return
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._is_admitted:
            self._is_admitted = False
            self._guard.admission.disconnect(self._address)
            self._guard.remove(self)
            if self._unread is not None:  # it is being read and discarded
                self._unread.feed_eof()
            super().connection_lost(exc)
        self._pipe = None

    def pause_writing(self) -> None:
        if self._pipe is not None:
            self._clock.stalled(self._pipe.get_write_buffer_size(), time.monotonic())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._clock.resumed()
        super().resume_writing()

    # --- what the middleware calls ---

    def request_begun(self) -> None:
        """Note that the headers of a request are complete."""
        self._clock.request_begun()

    def request_ended(self, unread: StreamReader | None) -> None:
        """Note that the answer is ready. unread: the body, if it was not read to its end; the connection then ends."""
        self._unread = unread
        self._clock.request_ended(unread is not None, time.monotonic())

    # --- ending it ---

    def end_if_expired(self, now: float) -> None:
        """Close the connection if it exceeds a time limit; answer first, if a request was begun."""
        if self._pipe is None:
            return
        reason = self._clock.expired(self._pipe.get_write_buffer_size(), now)
        if reason is None:
            return
        log.debug("closing the connection from %s: %s", self._address, reason)
        if self._clock.phase is ConnectionPhase.HEADERS and not self._pipe.is_closing():
            seconds = self._guard.admission.limits.receive_s
            self._end_with(self._pipe, Invalid(f"the headers were not complete within {seconds:g} s"), 408)
        elif self._clock.phase is ConnectionPhase.IDLE and not self._pipe.is_closing():
            self._pipe.close()
        else:
            self._pipe.abort()

    def _end_with(self, transport: asyncio.Transport, error: NodectlError, status: int | None = None) -> None:
        transport.write(closing_answer(error, status))
        transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP with a problem document, instead of a page and a traceback in the log."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so it cannot become an error any more")
        if status >= 500:
            log.error("a request failed outside of its handler", exc_info=exc)
            response = problem_response(NodectlError("the request failed; see this master's log"), status=status)
        else:
            text = (message or "").strip().splitlines()
            response = problem_response(
                Invalid(f"not an HTTP request: {text[0][:200] if text else status}"), status=status
            )
        response.force_close()
        return response


class GuardedServer(web.Server):
    """Makes a GuardedConnection for each connection."""

    def __init__(self, plain: web.Server, guard: ConnectionGuard, **options: Any) -> None:
        super().__init__(plain.request_handler, request_factory=plain.request_factory)
        self._guard, self._options = guard, options

    def __call__(self) -> web.RequestHandler:
        return GuardedConnection(self, self._guard, **self._options)


class GuardedRunner(web.AppRunner):
    """Runs a web application behind a ConnectionGuard."""

    __slots__ = ("_guard",)

    def __init__(self, app: web.Application, guard: ConnectionGuard, *, shutdown_timeout: float) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout)
        self._guard = guard

    async def _make_server(self) -> web.Server:
        limits = self._guard.admission.limits
        # No decompression: a small compressed body would become one of any size. Headers: see `AdmissionLimits`.
        return GuardedServer(
            await super()._make_server(), self._guard, access_log=None, auto_decompress=False,
            lingering_time=limits.linger_s, keepalive_timeout=limits.idle_s,
        )  # fmt: skip
