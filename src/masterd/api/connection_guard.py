"""Applies `admission` to the connections of the HTTP server: how many there are, and how long each may take.

A connection that is refused gets an answer, and its request is not parsed. One timer serves all connections. It closes
a connection whose client sends no request, does not finish its request, or does not read the answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from aiohttp import StreamReader, web

from masterd.api.admission import Admission, Caller, ConnectionClock, ConnectionPhase
from masterd.api.problems import closing_answer, problem_response
from nodestore.errors import Invalid, NodectlError, Overloaded, TooLarge
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.5
_ACCEPTED_A_TURN, _BACKLOG = 4, 128
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
        self._open: set[FirstBytes] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.limited_log = RateLimitedLog(log, 60.0)

    def add(self, connection: FirstBytes) -> None:
        """Watch the time limits of this connection until `remove`."""
        self._open.add(connection)
        if self._timer is None:
            self._schedule()

    def remove(self, connection: FirstBytes) -> None:
        self._open.discard(connection)

    def close(self) -> None:
        """Close all connections at the end of the server, also those on which no request was begun."""
        for connection in tuple(self._open):
            if connection.pipe is not None:
                connection.pipe.close()
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY_S, self._check)

    def _check(self) -> None:
        self._timer = None
        now = time.monotonic()
        for connection in tuple(self._open):
            connection.end_if_expired(now)
        if self._open:
            self._schedule()


class FirstBytes(asyncio.Protocol):
    """A connection until its first bytes arrive. Then it is refused, or becomes a GuardedConnection.

    A refusal parses nothing and costs little, so even many refusals hardly delay the connections that are admitted.
    """

    def __init__(self, guard: ConnectionGuard, make: Callable[[FirstBytes], GuardedConnection]) -> None:
        self.guard, self._make, self._address, self._is_admitted = guard, make, "", False
        self.clock = ConnectionClock(guard.admission.limits, time.monotonic())
        self.pipe: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pipe = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        refusal = self.guard.admission.connect(self._address, self.guard.caller_of(self._address))
        if refusal is not None:
            self.guard.limited_log.log(logging.WARNING, f"refusing connections: {refusal}", about="connections")
            end_with(self.pipe, Overloaded(refusal, 1.0))
            return
        self._is_admitted = True
        self.guard.add(self)

    def data_received(self, data: bytes) -> None:
        if self.pipe is None or self.pipe.is_closing():
            return
        if data.startswith(_COMMANDS) and (refusal := self.guard.commands_refused()) is not None:
            end_with(self.pipe, refusal)
            return
        connection = self._make(self)
        self.pipe.set_protocol(connection)
        connection.connection_made(self.pipe)
        connection.data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.forget()

    def forget(self) -> None:
        """Note that the connection has ended."""
        self.pipe = None
        if self._is_admitted:
            self._is_admitted = False
            self.guard.admission.disconnect(self._address)
            self.guard.remove(self)

    def end_if_expired(self, now: float) -> None:
        """Close the connection if it exceeds a time limit; answer first, if a request was begun."""
        if self.pipe is None or (reason := self.clock.expired(self.pipe.get_write_buffer_size(), now)) is None:
            return
        log.debug("closing the connection from %s: %s", self._address, reason)
        if self.clock.phase is ConnectionPhase.HEADERS and not self.pipe.is_closing():
            seconds = self.guard.admission.limits.receive_s
            end_with(self.pipe, Invalid(f"the headers were not complete within {seconds:g} s"), 408)
        elif self.clock.phase is ConnectionPhase.IDLE and not self.pipe.is_closing():
            self.pipe.close()
        else:
            self.pipe.abort()


def end_with(transport: asyncio.Transport, error: NodectlError, status: int | None = None) -> None:
    """Write an answer that reports `error`, and close the connection."""
    transport.write(closing_answer(error, status))
    transport.close()


class GuardedConnection(web.RequestHandler):
    """An admitted connection of the HTTP server, from its first bytes on."""

    __slots__ = ("_clock", "_first", "_guard", "_pipe", "_unread")

    def __init__(self, server: web.Server, first: FirstBytes, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._first, self._guard, self._clock, self._pipe = first, first.guard, first.clock, first.pipe
        self._unread: StreamReader | None = None

    # --- what the event loop calls ---

    def data_received(self, data: bytes) -> None:
        if self._pipe is None or self._pipe.is_closing():
            return
        if not self._clock.received(data, time.monotonic()):
            head_max = self._guard.admission.limits.head_bytes_max
            end_with(self._pipe, TooLarge(f"the headers of the request exceed {head_max} bytes"), 431)
            return
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._first.forget()
        self._pipe = None
        if self._unread is not None:  # the rest of this body is being read and discarded
            self._unread.feed_eof()
        super().connection_lost(exc)

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
    """Makes the protocol of each connection."""

    def __init__(self, plain: web.Server, guard: ConnectionGuard, **options: Any) -> None:
        super().__init__(plain.request_handler, request_factory=plain.request_factory)
        self._guard, self._options = guard, options

    def __call__(self) -> Any:  # a FirstBytes, from which a RequestHandler is made later
        return FirstBytes(self._guard, lambda first: GuardedConnection(self, first, **self._options))


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

    async def cleanup(self) -> None:
        await super().cleanup()
        self._guard.close()

    async def listen(self, host: str, port: int) -> None:
        """Accept connections at this address, a few in each turn of the event loop. Raises OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(found):
            listener = socket.create_server(address, family=family)
            # asyncio accepts as many connections in a turn as its backlog says: a flood of them would hold up commits.
            await web.SockSite(self, listener, backlog=_ACCEPTED_A_TURN).start()
            listener.listen(_BACKLOG)
