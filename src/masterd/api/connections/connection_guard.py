"""Applies `admission` to the connections of the HTTP server: how many there are, and how long each may take.

A connection that is refused gets an answer, and its request is not parsed. One timer serves all connections. It closes
a connection whose client sends no request, does not finish its request, or does not read the answer.

A request for commands that cannot be accepted now is answered from its first bytes, on a new connection as on one that
has served requests. Neither the HTTP server nor a task takes part, so an overloaded leader spends its time on the
commands that it has accepted. The connection is kept, because a new one would cost more than the refusal. If the client
sends the next request at once, instead of after the time that the refusal names, nothing is read from its connection
for a while: it cannot make the leader busy with refusals.

With TLS a connection is admitted before its handshake, so that handshakes are bounded too. A refusal is then the end of
the connection without an answer, because the answer would cost a handshake. A client that sends HTTP without TLS is
answered that it must use https.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import cast

from masterd.api.admission import Admission, Caller, ConnectionClock, ConnectionPhase, plain_size
from masterd.api.problems import raw_answer
from nodestore.errors import Denied, Invalid, NodectlError, Overloaded
from nodestore.pki.identity import PeerIdentity, peer_identity_of
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import background_task
from nodestore.support.tls_context import TLS_REQUIRED, FollowingContext

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.5
_TLS_END_S = 1.0
"""How long the end of a TLS connection waits for the client's agreement."""
_NEEDS_TLS = "this port speaks TLS: use https:// in place of http://"
_COMMANDS = b"POST /v1/commands"
_REFUSED_PAUSE_S = 0.1
"""How long nothing is read from a connection after a refusal, if the one before it was less than a second ago. Masters
are exempt, because they forward the requests of many clients. So is a new connection: its client may close it, which
must be noticed."""
_RETRY_S = 1.0
_ENCODE_EVERY_S = 0.1


class ConnectionGuard:
    """Admits connections, and closes those that exceed a time limit.

    caller_of: what is known of an address. commands_refused: why no command can be accepted now, or None. tls: the
    context for connections with TLS; None: there are none. plain_port: a port whose connections have no TLS
    nevertheless.
    """

    def __init__(
        self,
        admission: Admission,
        caller_of: Callable[[str], Caller],
        commands_refused: Callable[[], NodectlError | None],
        *,
        tls: FollowingContext | None = None,
        plain_port: int | None = None,
    ) -> None:
        self.admission, self.caller_of, self.commands_refused = admission, caller_of, commands_refused
        self._tls, self._plain_port = tls, plain_port
        if tls is not None:
            tls.answer_without_tls = raw_answer(Invalid(_NEEDS_TLS), TLS_REQUIRED)
        self._open: set[FirstBytes] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._answers: dict[bool, bytes] = {}
        self._answers_until = 0.0
        self.limited_log = RateLimitedLog(log, 60.0)

    def answer_to_commands(self, refusal: NodectlError, now: float, *, closes: bool) -> bytes:
        """The bytes that answer a request for commands with `refusal`. They may be a tenth of a second old."""
        if now >= self._answers_until:
            self._answers, self._answers_until = {}, now + _ENCODE_EVERY_S
        if closes not in self._answers:
            self._answers[closes] = raw_answer(refusal, closes=closes)
        return self._answers[closes]

    def add(self, connection: FirstBytes) -> None:
        """Watch the time limits of this connection until `remove`."""
        self._open.add(connection)
        if self._timer is None:
            self._schedule()

    def remove(self, connection: FirstBytes) -> None:
        self._open.discard(connection)

    def tls_for(self, port: int) -> FollowingContext | None:
        """The context for connections to this port of ours; None for connections without TLS."""
        return None if port == self._plain_port else self._tls

    def close_distrusted(self) -> None:
        """Close the connections of clients whose certificate is revoked by now, or must be verified again."""
        for connection in tuple(self._open):
            connection.end_if_distrusted()

    def close(self) -> None:
        """Close all connections at the end of the server, also those on which no request was begun."""
        for connection in tuple(self._open):
            if connection.pipe is not None:
                connection.pipe.close()
            connection.end_handshake()
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
    """A connection until its first bytes arrive. Then it is refused, or becomes a connection of the HTTP server.

    A refusal parses nothing and costs little, so even many refusals hardly delay the connections that are admitted.
    """

    def __init__(self, guard: ConnectionGuard, make: Callable[[FirstBytes], asyncio.Protocol]) -> None:
        self.guard, self._make, self._address, self._is_admitted = guard, make, "", False
        self.clock = ConnectionClock(guard.admission.limits, time.monotonic())
        self.pipe: asyncio.Transport | None = None
        self._caller = Caller.STRANGER
        self._unread = 0
        """How many bytes of the body of a refused request are still to be received and discarded."""
        self._pause: asyncio.TimerHandle | None = None
        self._refused_at = -_RETRY_S
        self.peer: PeerIdentity | None = None
        """Whom the verified certificate of the client names; None if it has none."""
        self._tls: FollowingContext | None = None
        self._certificate: bytes | None = None
        self._removals = 0
        """How many authorities had been removed when the handshake began; see `FollowingContext`."""
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""
        """What was received between the end of the handshake and the turn of the task that waits for it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pipe = cast(asyncio.Transport, transport)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._tls = self.guard.tls_for(int(own[1]) if isinstance(own, tuple) else 0)
        self._caller = self.guard.caller_of(self._address)
        refusal = self.guard.admission.connect(self._address, self._caller)
        if refusal is not None:
            self.guard.limited_log.log(logging.WARNING, f"refusing connections: {refusal}", about="connections")
            if self._tls is not None:
                self.pipe.abort()
            else:
                end_with(self.pipe, Overloaded(refusal, 1.0))
            return
        self._is_admitted = True
        self.guard.add(self)
        if self._tls is not None:
            self.pipe.pause_reading()
            self._handshake = background_task(self._shake_hands(self.pipe, self._tls), name="TLS handshake")

    async def _shake_hands(self, plain: asyncio.Transport, tls: FollowingContext) -> None:
        """Make the connection a TLS connection. Until then `data_received` only keeps what arrives."""
        self._removals = tls.removals
        try:
            pipe = await asyncio.get_running_loop().start_tls(
                plain, self, tls, server_side=True,
                ssl_handshake_timeout=self.guard.admission.limits.receive_s, ssl_shutdown_timeout=_TLS_END_S,
            )  # fmt: skip
        except (OSError, ssl.SSLError, TimeoutError) as error:
            log.debug("no TLS with %s: %s", self._address, error)
            self.forget()
            return
        if pipe is None or self.pipe is None:  # it ended meanwhile
            self.forget()
            return
        self.pipe = pipe
        self._certificate = pipe.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.peer = peer_identity_of(pipe.get_extra_info("peercert"))
        self._handshake = None
        if self._early:
            self.data_received(self._early)

    def end_handshake(self) -> None:
        """Give up the handshake, if it is not over."""
        if self._handshake is not None and self._handshake is not asyncio.current_task():
            self._handshake.cancel()

    def end_if_distrusted(self) -> None:
        """Close the connection if the client's certificate is not trusted any more."""
        if self.pipe is not None and (why := self._distrust()) is not None:
            log.warning("closing the connection from %s: %s", self._address, why)
            self.pipe.abort()

    def _distrust(self) -> str | None:
        """Why the client's certificate is not trusted any more; None if it is, or if there is none.

        After an authority was removed, it is not known which one had issued the certificate. The client connects
        again, and its certificate is verified by the authorities that are left.
        """
        if self._tls is None or self._certificate is None:
            return None
        if self._is_revoked:
            return f"the certificate of {self.peer} is revoked"
        if self._tls.removals != self._removals:
            return f"an authority was removed, so the certificate of {self.peer} must be verified again"
        return None

    @property
    def _is_revoked(self) -> bool:
        return self._tls is not None and self._tls.is_revoked(self._certificate)

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._early += data
            return
        if self.pipe is None or self.pipe.is_closing():
            return
        if (why := self._distrust()) is not None:
            log.warning("refusing the connection from %s: %s", self._address, why)
            if self._is_revoked:
                end_with(self.pipe, Denied(why))
            else:
                self.pipe.abort()  # as if it had been closed a moment before, so the client connects again
            return
        if self.refuses(data):
            return
        connection = self._make(self)
        self.pipe.set_protocol(connection)
        connection.connection_made(self.pipe)
        connection.data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.forget()

    def refuses(self, data: bytes) -> bool:
        """Refuse the request with which `data` begins, if it is one for commands and none can be accepted now.

        True also if `data` is more of the body of a refused request. To be called between two requests only, with all
        answers written: the answer goes out at once.
        """
        if self.pipe is None:
            return False
        if self._unread:
            self._discard(len(data))
            return True
        if not data.startswith(_COMMANDS) or (refusal := self.guard.commands_refused()) is None:
            return False
        now, size, body_max = time.monotonic(), plain_size(data), self.guard.admission.limits.body_bytes_max
        # An answer that its client has not read yet is the last one, so that answers cannot fill the memory.
        if size is None or not 0 <= size - len(data) <= body_max or unsent_bytes(self.pipe):
            self.pipe.write(self.guard.answer_to_commands(refusal, now, closes=True))
            self.pipe.close()
            return True
        self.pipe.write(self.guard.answer_to_commands(refusal, now, closes=False))
        self._unread = size - len(data)
        if self._unread:
            self.clock.request_ended(True, now)
        else:
            self._refusal_ended(now)
        return True

    @property
    def is_discarding(self) -> bool:
        """Whether the next bytes are those of a request that was refused."""
        return self._unread > 0

    def _discard(self, size: int) -> None:
        """Note that `size` bytes were received after a refused request."""
        if self.pipe is not None and size > self._unread:  # a next request, sent before this one was answered
            self.pipe.close()
        self._unread = max(0, self._unread - size)
        if not self._unread:
            self._refusal_ended(time.monotonic())

    def _refusal_ended(self, now: float) -> None:
        """Note that all of a refused request was received. If its client did not wait, read nothing for a while."""
        self.clock.request_ended(False, now)
        previous, self._refused_at = self._refused_at, now
        if self.pipe is not None and now - previous < _RETRY_S and self._caller is not Caller.MASTER:
            self.pipe.pause_reading()
            self._pause = asyncio.get_running_loop().call_later(_REFUSED_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self.pipe is not None and not self.pipe.is_closing():
            self.pipe.resume_reading()

    def forget(self) -> None:
        """Note that the connection has ended."""
        if self._pause is not None:
            self._pause.cancel()
        self.pipe = None
        self.end_handshake()
        if self._is_admitted:
            self._is_admitted = False
            self.guard.admission.disconnect(self._address)
            self.guard.remove(self)

    def end_if_expired(self, now: float) -> None:
        """Close the connection if it exceeds a time limit; answer first, if a request was begun."""
        if self.pipe is None or (reason := self.clock.expired(unsent_bytes(self.pipe), now)) is None:
            return
        log.debug("closing the connection from %s: %s", self._address, reason)
        if self.clock.phase is ConnectionPhase.HEADERS and not self.pipe.is_closing():
            seconds = self.guard.admission.limits.receive_s
            end_with(self.pipe, Invalid(f"the headers were not complete within {seconds:g} s"), 408)
        elif self.clock.phase is ConnectionPhase.IDLE and not self.pipe.is_closing():
            self.pipe.close()
        else:
            self.pipe.abort()


def unsent_bytes(transport: asyncio.Transport) -> int:
    """How many bytes wait to be sent."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # a TLS connection that is closed twice, as by aiohttp and here, forgets its buffer
        return 0


def end_with(transport: asyncio.Transport, error: NodectlError, status: int | None = None) -> None:
    """Write an answer that reports `error`, and close the connection."""
    transport.write(raw_answer(error, status))
    transport.close()
