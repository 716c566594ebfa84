"""An SSL context that follows its files: new connections use renewed files, and revoked peers are cut off.

asyncio asks the context that a server or a client was given for an object for each connection. So a context that makes
that object by another context, the newest one, needs no restart when a certificate, a key or an authority changes.
"""

from __future__ import annotations

import ssl
import weakref
from typing import Any, NoReturn

from nodestore.errors import Invalid
from nodestore.support.der import issuer_and_serial
from nodestore.support.tls_files import TlsContents

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

    def renew(self, contents: TlsContents) -> None:
        """Use these contents for new connections, and cut off servers whose certificate they revoke."""
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
        return made

    def _usable(self, contents: TlsContents) -> ssl.SSLContext:
        if not self._server_side:
            contents.client.sslobject_class = _CheckedConnection
            return contents.client
        if contents.server is None:
            raise Invalid("a server needs a certificate and a key")
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
