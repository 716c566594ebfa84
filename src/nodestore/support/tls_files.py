"""The TLS files of a program: reads them, checks that they belong together, and finds out when certificates end."""

from __future__ import annotations

import binascii
import os
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from nodestore.errors import Invalid
from nodestore.support.der import certificate_fields, elements, revoked_certificates

_DAY_S = 86_400.0
_WARN_BEFORE_S = 14 * _DAY_S

_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PEM_REVOCATIONS = re.compile(rb"-----BEGIN X509 CRL-----(.+?)-----END X509 CRL-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x17, 0x18
_FIELDS_BEFORE_VALIDITY = 3  # serial number, signature algorithm, issuer
_CENTURY_LIMIT = 50  # RFC 5280: a UTCTime with a year from 50 on is in the 20th century


@dataclass(frozen=True, order=True)
class CertificateEnd:
    """When a certificate of a file ends, as seconds since 1970."""

    time: float
    path: Path

    def __str__(self) -> str:
        return f"certificate {self.path} ends at {format_time(self.time)}"


@dataclass(frozen=True, kw_only=True)
class TlsContents:
    """The contents of TLS files that belong together. `ends`: the end of each file's certificates, the earliest first.

    For a certificate file, this is the earliest end in the chain. For a file of authorities, it is the latest end,
    because an authority that ended may stay in the file.
    """

    ca: bytes | None
    cert: bytes | None
    key: bytes | None
    ends: tuple[CertificateEnd, ...]
    revoked: frozenset[tuple[bytes, bytes]] = frozenset()
    """Issuer and serial number of each certificate in the revocation list."""
    client: ssl.SSLContext = field(compare=False)
    """A context for connections to servers that these files belong to."""
    server: ssl.SSLContext | None = field(compare=False)
    """A context for a server; None without a certificate."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Paths of TLS files in PEM format, each None if it is not used. `crl`: a revocation list, in PEM or DER format."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    crl: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.ca, self.cert, self.key, self.crl) if path is not None)

    def signature(self) -> tuple[object, ...]:
        """A value that differs once one of the files has been written or replaced. A missing file has one too."""
        return tuple(_signature(path) for path in self.paths)

    def read(self) -> TlsContents:
        """Read all files. Raises Invalid if one cannot be used, or if the key does not belong to the certificate."""
        before = self.signature()
        ca, cert, key = (None if path is None else _read(path) for path in (self.ca, self.cert, self.key))
        revoked = frozenset[tuple[bytes, bytes]]() if self.crl is None else read_revoked(self.crl)
        client, server = self.context(), None if self.cert is None else self._server_context()
        if self.signature() != before:
            raise Invalid(f"TLS files {self}: they are being written")
        ends = []
        if self.ca is not None and ca is not None:
            ends.append(CertificateEnd(max(_ends(self.ca, ca)), self.ca))
        if self.cert is not None and cert is not None:
            ends.append(CertificateEnd(min(_ends(self.cert, cert)), self.cert))
        return TlsContents(
            ca=ca, cert=cert, key=key, ends=tuple(sorted(ends)), revoked=revoked, client=client, server=server
        )

    def context(self) -> ssl.SSLContext:
        """An SSL context for a client. Without `ca` it trusts the system's authorities. Raises Invalid."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except (OSError, ssl.SSLError) as error:
            raise Invalid(f"TLS file {self.ca} cannot be used as certificate authority: {error}") from None
        self.load_into(context)
        return context

    def _server_context(self) -> ssl.SSLContext:
        """A context for a server. It asks clients for a certificate, and accepts those that have none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A resumed session would not verify the client's certificate again.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        if self.ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Use these files for new connections of `context`. Authorities that it trusts already stay trusted."""
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
            if self.cert is not None:
                # Without a function for the password, OpenSSL would ask for it on the terminal.
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise Invalid(f"TLS files {self} cannot be used: {error}") from None

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))


def end_warning(end: CertificateEnd | None, now: float) -> str | None:
    """That the certificate has ended, or ends within 14 days of `now`; None if it does not."""
    if end is None or not ends_soon(end.time, now):
        return None
    remedy = "renew it" if end.time > now else f"renew it, or correct the clock of this PC ({format_time(now)})"
    return f"certificate {end.path} {describe_end(end.time, now)}: {remedy}; a changed file is read within seconds"


def ends_soon(time_s: float, now: float) -> bool:
    """Whether a certificate that ends at `time_s` has ended, or ends within 14 days of `now`."""
    return time_s - now <= _WARN_BEFORE_S


def describe_end(time_s: float, now: float) -> str:
    """`ends at ... (in 3 days)`, or `ended at ...`."""
    if time_s <= now:
        return f"ended at {format_time(time_s)}"
    days = int((time_s - now) // _DAY_S)
    left = f" (in {days} day{'s' if days > 1 else ''})" if days else ""
    return f"ends at {format_time(time_s)}{left}"


def format_time(time_s: float) -> str:
    """The time in UTC, such as 2026-01-01T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))


def certificate_end(der: bytes) -> float:
    """When an X.509 certificate in DER ends (`notAfter`), as seconds since 1970. Raises Invalid if it is malformed."""
    try:
        return _not_after(der)
    except (IndexError, ValueError):
        raise Invalid("malformed certificate") from None


def certificate_end_of(path: Path) -> float:
    """When the certificates in a file in PEM format end, the earliest of them. Raises Invalid."""
    return min(_ends(path, _read(path)))


def authorities_in(pem: bytes | None) -> frozenset[bytes]:
    """The certificates in the content of a file of authorities, without what separates them."""
    return frozenset(b"".join(block.split()) for block in _PEM_CERTIFICATE.findall(pem or b""))


def read_revoked(path: Path) -> frozenset[tuple[bytes, bytes]]:
    """The issuer and the serial number of each certificate in a revocation list. Raises Invalid."""
    return _revoked(path, _read(path))


def _not_after(der: bytes) -> float:
    tag, validity = certificate_fields(der)[_FIELDS_BEFORE_VALIDITY]
    if tag != _SEQUENCE:
        raise ValueError("no validity")
    (_, (kind, raw)) = elements(validity)
    text = raw.decode("ascii")
    if kind == _UTC_TIME:
        text = ("19" if int(text[:2]) >= _CENTURY_LIMIT else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _ends(path: Path, pem: bytes) -> list[float]:
    blocks = _PEM_CERTIFICATE.findall(pem)
    if not blocks:
        raise Invalid(f"TLS file {path} contains no certificate in PEM format")
    try:
        return [certificate_end(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))) for block in blocks]
    except ValueError:
        raise Invalid(f"TLS file {path} contains a malformed certificate") from None
    except Invalid as error:
        raise Invalid(f"TLS file {path}: {error}") from None


def _revoked(path: Path, content: bytes) -> frozenset[tuple[bytes, bytes]]:
    """The certificates in a file with one revocation list in DER format, or with any number of them in PEM format."""
    try:
        blocks = [binascii.a2b_base64(block) for block in _PEM_REVOCATIONS.findall(content)]
        return frozenset().union(*map(revoked_certificates, blocks or [content]))
    except (Invalid, ValueError):
        raise Invalid(f"TLS file {path} contains no certificate revocation list in PEM or DER format") from None


def _signature(path: Path) -> object:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"cannot read TLS file {path}: {error.strerror or error}") from None
