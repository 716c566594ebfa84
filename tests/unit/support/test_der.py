"""Certificates and revocation lists that the daemons read without a library, also malformed ones."""

from __future__ import annotations

import contextlib
import ssl
import time
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodestore.errors import Invalid
from nodestore.pki import signing
from nodestore.pki.identity import Subject
from nodestore.support.der import certificate_fields, issuer_and_serial, revoked_certificates
from nodestore.support.tls_files import certificate_end, read_revoked

NOW = time.time()
CERTIFICATE, KEY = signing.new_authority("test", NOW)
SIGNER = signing.Signer.load(CERTIFICATE, KEY)


def leaf(serial: int) -> bytes:
    made = signing.sign(SIGNER, signing.new_key().public_key(), Subject("noded", "n1"), (), NOW + 60, serial)
    return ssl.PEM_cert_to_DER_cert(made.certificate.decode())


def listed(*serials: int) -> bytes:
    return signing.revocation_list(SIGNER, [(f"{serial:X}", NOW) for serial in serials], NOW)


@pytest.mark.parametrize(
    "serial", [1, 0x7F, 0x80, 0xFF00, signing.new_serial()], ids=["1", "7f", "80", "ff00", "a new one"]
)
def test_a_listed_certificate_is_found(serial: int) -> None:
    assert issuer_and_serial(leaf(serial)) in revoked_certificates(listed(5, serial))
    assert issuer_and_serial(leaf(serial)) not in revoked_certificates(listed(5, 6))


def test_the_same_number_of_another_authority_is_another_certificate() -> None:
    other = signing.Signer.load(*signing.new_authority("other", NOW))
    assert issuer_and_serial(leaf(7)) not in revoked_certificates(signing.revocation_list(other, [("07", NOW)], NOW))


def test_an_empty_list_names_nothing() -> None:
    assert revoked_certificates(listed()) == frozenset()


def test_several_lists_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "both.crl"
    file.write_text(
        "".join(
            f"-----BEGIN X509 CRL-----\n{b64encode(listed(serial)).decode()}\n-----END X509 CRL-----\n"
            for serial in (1, 2)
        )
    )
    assert read_revoked(file) == revoked_certificates(listed(1, 2))


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n", KEY],
    ids=["empty", "text", "garbage", "a key"],
)
def test_a_file_without_a_list_is_invalid(tmp_path: Path, content: bytes) -> None:
    """It must not count as a list that names nothing."""
    file = tmp_path / "bad.crl"
    file.write_bytes(content)
    with pytest.raises(Invalid, match=r"bad\.crl contains no certificate revocation list"):
        read_revoked(file)


@pytest.mark.parametrize("cut", range(1, 200, 7))
def test_a_truncated_list_is_invalid(cut: int) -> None:
    with pytest.raises(Invalid):
        revoked_certificates(listed(1, 2)[:-cut])


@given(st.binary(max_size=200), st.integers(0, 400))
@example(b"\x30\x84\xff\xff\xff\xff", 0)
def test_no_bytes_raise_another_error(noise: bytes, at: int) -> None:
    for valid in (listed(1), leaf(1)):
        damaged = valid[:at] + noise + valid[at + len(noise) :]
        for reader in (revoked_certificates, issuer_and_serial, certificate_end):
            for data in (damaged, noise):
                with contextlib.suppress(Invalid):
                    reader(data)


def test_the_fields_of_a_certificate() -> None:
    assert certificate_fields(leaf(9))[0] == (0x02, b"\x09")


@pytest.mark.parametrize("entry", [b"\x30\x00", b"\x30\x02\x05\x00"], ids=["empty", "without a number"])
def test_an_entry_without_a_serial_number_is_refused(entry: bytes) -> None:
    """The error must be Invalid: another one would end the task that reads changed lists."""

    def sequence(content: bytes) -> bytes:
        return bytes([0x30, len(content)]) + content

    content = sequence(b"") + sequence(b"") + sequence(entry)
    with pytest.raises(Invalid, match="malformed revocation list"):
        revoked_certificates(sequence(sequence(content)))
