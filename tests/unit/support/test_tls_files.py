"""TLS files: what is read from them, which of them do not belong together, and when their certificates end."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from nodestore.errors import Invalid
from nodestore.support.tls_files import CertificateEnd, TlsFiles, certificate_end, end_warning
from tests.support.certificates import Authority

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_the_end_of_a_certificate(authority: Authority) -> None:
    cert, key = authority.issue("short", seconds=90)
    found = TlsFiles(ca=authority.ca, cert=cert, key=key).read()
    assert found.ends[0].path == cert
    assert found.ends[0].time == pytest.approx(time.time() + 90, abs=20)
    assert found.ends[1].path == authority.ca
    assert str(found.ends[0]).startswith(f"certificate {cert} ends at 2")


def test_a_certificate_that_ends_after_2050_has_another_time_format(authority: Authority) -> None:
    cert, _ = authority.issue("long", seconds=40 * 365 * 86_400)
    der = ssl.PEM_cert_to_DER_cert(cert.read_text("ascii"))
    assert certificate_end(der) == pytest.approx(time.time() + 40 * 365 * DAY_S, abs=20)


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_malformed_certificate_is_invalid(authority: Authority, cut: int) -> None:
    cert, _ = authority.issue("cut")
    with pytest.raises(Invalid):
        certificate_end(ssl.PEM_cert_to_DER_cert(cert.read_text("ascii"))[:cut])


def test_a_key_of_another_certificate_is_invalid(authority: Authority) -> None:
    cert, _ = authority.issue("one")
    _, key = authority.issue("two")
    with pytest.raises(Invalid, match=f"TLS files .*{cert}"):
        TlsFiles(ca=authority.ca, cert=cert, key=key).read()


def test_a_key_with_a_password_is_invalid_and_asks_nobody(authority: Authority) -> None:
    cert, key = authority.issue("secret", password="secret")
    with pytest.raises(Invalid):
        TlsFiles(ca=authority.ca, cert=cert, key=key).read()


@pytest.mark.parametrize("content", ["", "pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_invalid(tmp_path: Path, content: str) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text(content)
    with pytest.raises(Invalid, match=r"ca\.pem"):
        TlsFiles(ca=ca).read()


def test_a_missing_file_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"none\.pem"):
        TlsFiles(ca=tmp_path / "none.pem").read()


@pytest.mark.parametrize(
    ("left_s", "says"),
    [(15 * DAY_S, None), (13.5 * DAY_S, "(in 13 days)"), (60.0, "ends at"), (-1.0, "ended at")],
)
def test_the_warning_begins_fourteen_days_before_the_end(left_s: float, says: str | None) -> None:
    warning = end_warning(CertificateEnd(1_000_000_000.0 + left_s, Path("/etc/pc1.crt")), 1_000_000_000.0)
    assert (
        (warning is None) if says is None else (warning is not None and says in warning and "/etc/pc1.crt" in warning)
    )
