"""An SSL context that follows its files: new connections use renewed files, and revoked peers are cut off.

asyncio asks the context that a server or a client was given for an object for each connection. So a context that makes
that object by another context, the newest one, needs no restart when a certificate, a key or an authority changes.

Also here: the answer and the messages if one side of a connection uses TLS and the other does not.
"""

from __future__ import annotations

import ssl
import weakref
from typing import Any, NoReturn
from urllib.parse import urlsplit

from nodestore.errors import Invalid
from nodestore.support.der import issuer_and_serial
from nodestore.support.tls_files import TlsContents, authorities_in

TLS_REQUIRED = 426
"""The HTTP status (Upgrade Required) of the answer to a request without TLS at a port that speaks TLS."""
_NOT_TLS = frozenset({
    "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "UNKNOWN_PROTOCOL",
})  # fmt: skip
"""How versions of OpenSSL name bytes that are not TLS."""
_CERTIFICATE_REVOKED = 23  # X509_V_ERR_CERT_REVOKED


class FollowingContext(ssl.SSLContext):
    """An SSL context for clients or for a server, whose contents `renew` replaces.

    A client's connection fails if the server's certificate is revoked, and is cut off if it becomes so. A server that
    uses this context must close the connections of revoked clients itself (`is_revoked`), since it can explain that.
    """

    def __new__(cls, contents: TlsContents, *, server_side: bool) -> FollowingContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, contents: TlsContents, *, server_side: bool) -> None:
        self._server_side = server_side
        self._connections: weakref.WeakSet[_CheckedConnection] = weakref.WeakSet()
        self._contents = contents
        self._context = self._usable(contents)
        self.answer_without_tls = b""
        """What a server answers to a client that sends HTTP without TLS; empty: it closes the connection."""
        self.removals = 0
        """How often an authority was removed. A server must close the connections of clients whose certificate was
        verified before: the authority may be the removed one."""

    def renew(self, contents: TlsContents) -> None:
        """Use these contents for new connections, and cut off servers whose certificate they revoke."""
        self.removals += bool(authorities_in(self._contents.ca) - authorities_in(contents.ca))
        self._contents, self._context = contents, self._usable(contents)
        for connection in tuple(self._connections):
            if connection.is_established and self.is_revoked(connection.getpeercert(binary_form=True)):
                connection.cut_off()

    def is_revoked(self, certificate: bytes | None) -> bool:
        """Whether the revocation list contains this certificate, in DER. None: the peer has none."""
        revoked = self._contents.revoked
        return certificate is not None and bool(revoked) and _is_in(certificate, revoked)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = self._context.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname, session=session
        )
        if isinstance(made, _CheckedConnection):
            made.owner = self
            self._connections.add(made)
        elif isinstance(made, _ServerConnection):
            made.answer_without_tls, made.incoming, made.outgoing = self.answer_without_tls, incoming, outgoing
        return made

    def _usable(self, contents: TlsContents) -> ssl.SSLContext:
        if not self._server_side:
            contents.client.sslobject_class = _CheckedConnection
            return contents.client
        if contents.server is None:
            raise Invalid("a server needs a certificate and a key")
        contents.server.sslobject_class = _ServerConnection
        return contents.server


class _CheckedConnection(ssl.SSLObject):
    """A connection of a client to a server whose certificate must not be revoked."""

    owner: FollowingContext
    is_established = False

    def do_handshake(self) -> None:
        super().do_handshake()
        if self.owner.is_revoked(self.getpeercert(binary_form=True)):
            raise _revoked("the certificate is revoked")
        self.is_established = True

    def cut_off(self) -> None:
        """Fail every further read and write. These methods replace those of the class for this connection alone, so
        that other connections need no check at each read."""

        def fail(*_: Any) -> NoReturn:
            raise _revoked("the certificate was revoked")

        self.read = self.write = fail  # type: ignore[method-assign, assignment]


class _ServerConnection(ssl.SSLObject):
    """A connection of a server. A client that sends HTTP without TLS gets an answer that says what to do.

    The handshake of such a connection never ends: what else it sends is discarded, and it is closed by the client, or
    when the time for a handshake is over.
    """

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    answer_without_tls = b""
    _is_judged = _is_answered = False

    def do_handshake(self) -> None:
        if not self._is_judged:
            self._judge_first_bytes()
        if self._is_answered:
            self.incoming.read()
            raise ssl.SSLWantReadError  # asyncio then sends the answer, and reads on
        super().do_handshake()

    def _judge_first_bytes(self) -> None:
        """Answer if the client begins with a letter, as every method of HTTP does and no TLS connection."""
        first = self.incoming.read()
        self.incoming.write(first)
        self._is_judged = bool(first)
        if self.answer_without_tls and b"A" <= first[:1] <= b"Z":
            self._is_answered = True
            self.outgoing.write(self.answer_without_tls)


def _revoked(message: str) -> ssl.SSLCertVerificationError:
    """The error that OpenSSL raises for a certificate that it finds revoked, with all attributes that it has there."""
    error = ssl.SSLCertVerificationError(1, message)
    error.library, error.reason = "SSL", "CERTIFICATE_VERIFY_FAILED"
    error.verify_code, error.verify_message = _CERTIFICATE_REVOKED, message
    return error


def _is_in(certificate: bytes, revoked: frozenset[tuple[bytes, bytes]]) -> bool:
    try:
        return issuer_and_serial(certificate) in revoked
    except Invalid:  # OpenSSL has accepted it, so this does not happen; a certificate that is not understood is out
        return True


# --- a URL with the wrong scheme --------------------------------------------------------------------------------------


def needs_tls_text(url: str) -> str:
    """The message about an http URL whose port speaks TLS."""
    return f"{_with_scheme(url, urlsplit(url).scheme)}: this port speaks TLS: use {_with_scheme(url, 'https')}"


def has_no_tls_text(url: str, error: BaseException) -> str | None:
    """The message about an https URL whose port speaks HTTP without TLS; None if `error` has another cause.

    error: the error of the handshake, or one of aiohttp that carries it as `os_error`.
    """
    cause = getattr(error, "os_error", error)
    if not isinstance(cause, ssl.SSLError) or cause.reason not in _NOT_TLS:
        return None
    return f"{_with_scheme(url, 'https')}: this port does not speak TLS: use {_with_scheme(url, 'http')}"


def _with_scheme(url: str, scheme: str) -> str:
    """`url` without its path, with this scheme."""
    return f"{scheme}://{urlsplit(url).netloc}"
