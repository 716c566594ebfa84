"""The HTTP server behind a `ConnectionGuard`: what aiohttp calls on an admitted connection, and where it listens."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

from aiohttp import StreamReader, web

from masterd.api.admission import ConnectionPhase
from masterd.api.connections.connection_guard import ConnectionGuard, FirstBytes, end_with, unsent_bytes
from masterd.api.problems import problem_response
from nodestore.errors import Invalid, NodectlError, TooLarge
from nodestore.pki.identity import PeerIdentity

log = logging.getLogger(__name__)

_ACCEPTED_A_TURN, _BACKLOG = 4, 128


class GuardedConnection(web.RequestHandler):
    """An admitted connection of the HTTP server, from its first bytes on."""

    __slots__ = ("_clock", "_first", "_guard", "_is_answered", "_pipe", "_unread")

    def __init__(self, server: web.Server, first: FirstBytes, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._first, self._guard, self._clock, self._pipe = first, first.guard, first.clock, first.pipe
        self._unread: StreamReader | None = None
        self._is_answered = True

    # --- what the event loop calls ---

    def data_received(self, data: bytes) -> None:
        if self._pipe is None or self._pipe.is_closing():
            return
        is_between = self._is_answered and self._clock.phase is ConnectionPhase.IDLE
        if (is_between or self._first.is_discarding) and self._first.refuses(data):
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
            self._clock.stalled(unsent_bytes(self._pipe), time.monotonic())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._clock.resumed()
        super().resume_writing()

    @property
    def peer(self) -> PeerIdentity | None:
        """Whom the verified certificate of the client names; None if it has none."""
        return self._first.peer

    # --- what the middleware calls ---

    def request_begun(self) -> None:
        """Note that the headers of a request are complete."""
        self._is_answered = False
        self._clock.request_begun()

    def request_ended(self, unread: StreamReader | None) -> None:
        """Note that the answer is ready. unread: the body, if it was not read to its end; the connection then ends."""
        self._unread = unread
        self._clock.request_ended(unread is not None, time.monotonic())

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the rest of the answer. Before that, nothing else may be written to the connection."""
        finished = await super().finish_response(request, resp, start_time)
        self._is_answered = True
        return finished

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
        if isinstance(exc, ConnectionError):  # the client has closed the connection, so nothing reads an answer
            log.debug("%s %s: the client disconnected: %s", request.method, request.path, exc)
            raise exc
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


def peer_identity(request: web.BaseRequest) -> PeerIdentity | None:
    """Whom the verified certificate of the client names; None without TLS, or if the client has no certificate.

    A certificate that is revoked does not get here: its connections are refused, and closed once it is revoked.
    """
    connection = request.protocol
    return connection.peer if isinstance(connection, GuardedConnection) else None


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
