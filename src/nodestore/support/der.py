"""Reads the encoding of certificates and revocation lists (DER), as far as the daemons need it. Pure.

The daemons need only a few fields. A library that reads all of them would take several megabytes of a small PC's
memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from nodestore.errors import Invalid

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_MORE_LENGTH_BYTES = 0x80


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of a constructed value: the tag and the content of each. IndexError or ValueError if malformed."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= _MORE_LENGTH_BYTES:
            count = length - _MORE_LENGTH_BYTES
            if at + count > len(data):
                raise ValueError("truncated")
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        if at + length > len(data):
            raise ValueError("truncated")
        yield tag, data[at : at + length]
        at += length


def first_element(data: bytes) -> tuple[int, bytes]:
    """The first element of a constructed value. IndexError or ValueError if it is malformed or empty."""
    for element in elements(data):
        return element
    raise ValueError("empty")  # a StopIteration of `next` would become another error in a generator


def certificate_fields(der: bytes) -> list[tuple[int, bytes]]:
    """The fields of a certificate after its version: serial number, algorithm, issuer, validity, subject, and so on.

    IndexError or ValueError if it is malformed.
    """
    certificate = first_element(der)[1]
    return [item for item in elements(first_element(certificate)[1]) if item[0] != _VERSION]


def issuer_and_serial(der: bytes) -> tuple[bytes, bytes]:
    """The issuer and the serial number of a certificate, as they are encoded. Raises Invalid if it is malformed."""
    try:
        (tag, serial), _, (_, issuer) = certificate_fields(der)[:3]
    except (IndexError, ValueError):
        raise Invalid("malformed certificate") from None
    if tag != _INTEGER:
        raise Invalid("malformed certificate")
    return issuer, serial


def revoked_certificates(der: bytes) -> frozenset[tuple[bytes, bytes]]:
    """The issuer and the serial number of each certificate in a revocation list. Raises Invalid if it is malformed.

    The signature is not verified: like a file of authorities, the list comes from a file that its owner vouches for.
    Lists that contain only changes, or certificates of several authorities, are not supported.
    """
    try:
        content = first_element(first_element(der)[1])[1]
        fields = [item for item in elements(content) if item[0] != _INTEGER]
        (_, _), (tag, issuer), *rest = fields
        if tag != _SEQUENCE:
            raise ValueError("no issuer")
        entries = next((value for kind, value in rest if kind == _SEQUENCE), b"")
        return frozenset((issuer, _serial_of(entry)) for _, entry in elements(entries))
    except (IndexError, ValueError):
        raise Invalid("malformed revocation list") from None


def _serial_of(entry: bytes) -> bytes:
    tag, serial = first_element(entry)
    if tag != _INTEGER:
        raise ValueError("no serial number")
    return serial
