"""What a peer's certificate and a revocation list hold. The library `cryptography` reads them too, for comparison."""

from __future__ import annotations

import warnings

from cryptography import x509

from nodestore.errors import Invalid
from nodestore.pki.identity import COMMON_NAME_CHARS_MAX, Subject, peer_identity_of
from nodestore.support.der import issuer_and_serial, revoked_certificates
from nodestore.support.tls_files import certificate_end
from tests.fuzz.target import Target, agree


def _number(serial: bytes) -> int:
    return int.from_bytes(serial, "big", signed=True)


def _certificate(data: bytes) -> None:
    """A certificate that a TLS library accepts has here the serial number and the end that it has there."""
    found, end = issuer_and_serial(data), certificate_end(data)
    try:
        with warnings.catch_warnings(action="ignore"):
            known = x509.load_der_x509_certificate(data)
            expected = known.serial_number, known.not_valid_after_utc.timestamp()
    except (ValueError, x509.InvalidVersion):
        return
    agree("serial number and end", (_number(found[1]), end), expected)


def _revocations(data: bytes) -> None:
    """A list that a TLS library accepts names here the serial numbers that it names there."""
    found = revoked_certificates(data)
    try:
        with warnings.catch_warnings(action="ignore"):
            expected = {item.serial_number for item in x509.load_der_x509_crl(data)}
    except (ValueError, x509.InvalidVersion):
        return
    agree("serial numbers", {_number(serial) for _, serial in found}, expected)


def _subject(data: bytes) -> None:
    """A name that is accepted is read back as it is, and no other common name becomes an identity."""
    name = data.decode("utf-8", "replace")
    described = {"subject": ((("commonName", name),),), "serialNumber": "01"}
    peer = peer_identity_of(described)
    assert peer is not None
    agree("the name that logs show", str(peer), name)
    subject = Subject.parse(name)
    agree("an identity, read and written", str(subject), name)
    agree("both readers", (peer.kind, peer.name), (subject.kind, subject.name))
    assert len(name) <= COMMON_NAME_CHARS_MAX
    assert name.isprintable()


TARGETS = (
    Target("certificates", _certificate, (Invalid,)),
    Target("revocations", _revocations, (Invalid,)),
    Target("subjects", _subject, (Invalid,), ("masterd:", "noded:", "operator:", "etcd:", "host:", "hostd:")),
)
