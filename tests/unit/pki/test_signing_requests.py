"""Requests for certificates: what a request can ask for, what it gets, and where its key is."""

from __future__ import annotations

import base64
import sys
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from nodestore.errors import Conflict, Invalid
from nodestore.pki import private_files, signing
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.pki.request_files import request
from nodestore.pki.signing_requests import REQUEST_BYTES_MAX, check_request, new_request
from nodestore.support.tls_files import TlsFiles

MASTERD, NODED, ETCD = (Subject.parse(text) for text in ("masterd:pc1", "noded:n1", "etcd:pc1"))
DAY_S = 86_400.0


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, content: bytes, mode: int) -> None:
        path.write_bytes(content)
        path.chmod(mode)

    monkeypatch.setattr(private_files, "write_atomic", write)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authorities(tmp_path: Path, clock: Clock) -> Authorities:
    made = Authorities(tmp_path / "pki", clock)
    made.init("wall")
    return made


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def csr(subject: x509.Name, key: object, *extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def named(*values: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value) for value in values])


# --- what a request gets ----------------------------------------------------------------------------------------------


def test_the_key_stays_where_it_was_made(authorities: Authorities, tmp_path: Path) -> None:
    """The directory of the authorities gets all that the PC needs, but no key."""
    made = request(tmp_path / "pc", MASTERD)
    signed = authorities.sign_request(MASTERD, made.request.read_bytes(), ["10.0.0.1"])
    assert sorted(path.name for path in signed.directory.iterdir()) == ["ca.crl", "ca.crt", "pc1.crt"]
    assert signed.contents().keys() == {"ca.crl", "ca.crt", "pc1.crt"}
    for name, content in signed.contents().items():
        (tmp_path / "pc" / name).write_bytes(content)
    own = tmp_path / "pc"
    TlsFiles(ca=own / "ca.crt", cert=own / "pc1.crt", key=own / "pc1.key", crl=own / "ca.crl").read()


def test_a_member_of_etcd_gets_both_certificates_for_one_key(authorities: Authorities, tmp_path: Path) -> None:
    made = request(tmp_path, ETCD)
    assert [path.name for path in made.keys] == ["pc1.key", "pc1-peer.key"]
    signed = authorities.sign_request(ETCD, made.request.read_bytes(), ["10.0.0.1"])
    load(signed.directory / "pc1.crt").verify_directly_issued_by(load(signed.directory / "ca.crt"))
    load(signed.directory / "pc1-peer.crt").verify_directly_issued_by(load(signed.directory / "peer-ca.crt"))
    TlsFiles(cert=signed.directory / "pc1-peer.crt", key=made.keys[1]).read()


def test_what_else_a_request_asks_for_is_ignored(authorities: Authorities) -> None:
    """To be an authority, to serve, and the address of another PC."""
    wishes = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName([x509.DNSName("pc9.example")]),
    )
    greedy = csr(named("noded:n1"), signing.new_key(), *wishes)
    assert check_request(greedy).asked == ("pc9.example",)
    certificate = load(authorities.sign_request(NODED, greedy).directory / "n1.crt")
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_certificate_names_the_addresses_that_the_signer_allows(authorities: Authorities) -> None:
    asks = csr(named("masterd:pc1"), signing.new_key(), x509.SubjectAlternativeName([x509.DNSName("pc9.example")]))
    certificate = load(authorities.sign_request(MASTERD, asks, ["pc1.example"]).directory / "pc1.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pc1.example", "localhost"]
    with pytest.raises(Invalid, match="accepts no connections"):
        authorities.sign_request(NODED, new_request(NODED, signing.new_key()), ["pc1.example"])


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2_048)], ids=["P-384", "RSA"]
)  # fmt: skip
def test_keys_of_other_programs(authorities: Authorities, key: ec.EllipticCurvePrivateKey) -> None:
    made = authorities.sign_request(NODED, new_request(NODED, key))
    assert load(made.directory / "n1.crt").public_key() == key.public_key()
    assert authorities.renew(force=True)[0].changed


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (named("masterd:pc2"), "the request is for masterd:pc2, not for masterd:pc1"),
        (named("admin:pc1"), "is not KIND:NAME"),
        (named("pc1"), "is not KIND:NAME"),
        (named("masterd:pc1", "operator:jo"), "not a single CN=KIND:NAME"),
        (x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "masterd:pc1")]), "not a single CN=KIND:NAME"),
        (x509.Name([]), "not a single CN=KIND:NAME"),
        (named("masterd:../pc1"), "is not allowed"),
    ],
)
def test_another_subject_is_invalid(authorities: Authorities, subject: x509.Name, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        authorities.sign_request(MASTERD, csr(subject, signing.new_key()))
    assert authorities.records().issued == ()


def test_a_long_subject_is_not_repeated(authorities: Authorities) -> None:
    with warnings.catch_warnings(action="ignore"):  # the library warns of what is tried here
        long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 999, _validate=False)])
    with pytest.raises(Invalid, match="more than 64 characters") as refused:
        authorities.sign_request(MASTERD, csr(long, signing.new_key()))
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 1_024),  # noqa: S505 - what is refused
        rsa.generate_private_key(3, 2_048),
        ec.generate_private_key(ec.SECP224R1()),
        ed25519.Ed25519PrivateKey.generate(),
        dsa.generate_private_key(2_048),
    ],
    ids=["RSA 1024", "RSA with exponent 3", "P-224", "Ed25519", "DSA"],
)
def test_a_weak_or_unusual_key_is_invalid(authorities: Authorities, key: object) -> None:
    with pytest.raises(Invalid, match="use ECDSA P-256"):
        authorities.sign_request(MASTERD, csr(named("masterd:pc1"), key))


def test_a_request_that_another_key_signed_is_invalid(authorities: Authorities) -> None:
    """A request must prove that its sender has the key."""
    keys = [rsa.generate_private_key(65_537, 2_048) for _ in range(2)]  # their signatures have one length
    victim, own = (x509.load_pem_x509_csr(new_request(MASTERD, key)) for key in keys)
    forged = victim.public_bytes(serialization.Encoding.DER)[: -len(own.signature)] + own.signature
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Invalid, match="not signed by its own key"):
        authorities.sign_request(MASTERD, pem)


_REQUEST = new_request(MASTERD, signing.new_key())


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\xff" * 10, _REQUEST[:200]])
def test_what_is_no_request_is_invalid(content: bytes) -> None:
    with pytest.raises(Invalid, match="not a request"):
        check_request(content)


def test_a_long_request_is_not_parsed() -> None:
    with pytest.raises(Invalid, match="at most"):
        check_request(_REQUEST + b"\n" * REQUEST_BYTES_MAX)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_requests_are_invalid_or_the_same(data: st.DataObject) -> None:
    der = bytearray(x509.load_pem_x509_csr(_REQUEST).public_bytes(serialization.Encoding.DER))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%s\n-----END CERTIFICATE REQUEST-----\n" % base64.b64encode(der)
    try:
        found = check_request(pem)
    except Invalid:
        return
    assert found.identity == MASTERD


# --- again: repeated, renewed, revoked --------------------------------------------------------------------------------


def test_the_same_request_again_changes_nothing(authorities: Authorities) -> None:
    asks = new_request(NODED, signing.new_key())
    assert authorities.sign_request(NODED, asks).changed
    assert not authorities.sign_request(NODED, asks).changed
    assert not authorities.issue(NODED).changed
    assert authorities.sign_request(NODED, new_request(NODED, signing.new_key())).changed
    assert len(authorities.records().issued) == 2


def test_renewal_certifies_the_same_key_again(authorities: Authorities, clock: Clock, tmp_path: Path) -> None:
    """So that only files without secrets are copied to the PC. Also when the certificate has ended."""
    made = request(tmp_path / "pc", ETCD)
    authorities.sign_request(ETCD, made.request.read_bytes(), ["10.0.0.1"])
    clock.now += 400 * DAY_S
    renewed = authorities.renew()[0]
    assert renewed.changed
    assert renewed.ends == clock.now + 90 * DAY_S
    assert list(renewed.directory.glob("*.key")) == []
    for name, key in zip(("pc1.crt", "pc1-peer.crt"), made.keys, strict=True):
        TlsFiles(cert=renewed.directory / name, key=key).read()


def test_a_key_that_was_revoked_is_certified_no_more(authorities: Authorities) -> None:
    """Neither for the identity that had it, nor for another one; after that the key is made here again."""
    stolen = signing.new_key()
    authorities.sign_request(NODED, new_request(NODED, stolen))
    authorities.renew(force=True)
    first = authorities.records().issued[0].serial
    assert len(authorities.revoke(NODED, first)) == 2
    for identity in (NODED, MASTERD):
        with pytest.raises(Conflict, match="was revoked: make a new key"):
            authorities.sign_request(identity, new_request(identity, stolen))
    assert (authorities.issue(NODED).directory / "n1.key").exists()


def test_a_key_that_was_made_here_is_removed(authorities: Authorities) -> None:
    """It would not belong to the certificate that is copied with it."""
    directory = authorities.issue(NODED).directory
    assert (directory / "n1.key").exists()
    authorities.sign_request(NODED, new_request(NODED, signing.new_key()))
    assert not (directory / "n1.key").exists()


def test_the_key_of_the_request_is_kept_where_the_files_are_written_to_it(
    authorities: Authorities, tmp_path: Path
) -> None:  # fmt: skip
    """The PC of the authorities signs its own requests, in the directory that its programs use."""
    own = request(tmp_path / "own", MASTERD)
    authorities.sign_request(MASTERD, own.request.read_bytes(), out=tmp_path / "own")
    authorities.renew(force=True)
    assert not authorities.sign_request(MASTERD, own.request.read_bytes()).changed
    TlsFiles(cert=tmp_path / "own" / "pc1.crt", key=own.keys[0]).read()


# --- the files of a request -------------------------------------------------------------------------------------------


def test_a_request_is_repeated_with_the_same_key(tmp_path: Path) -> None:
    first = request(tmp_path, MASTERD)
    key = first.keys[0].read_bytes()
    if sys.platform != "win32":
        assert first.keys[0].stat().st_mode & 0o777 == 0o600
    first.request.unlink()
    again = request(tmp_path, MASTERD)
    assert (first.made, again.made) == (True, False)
    assert again.keys[0].read_bytes() == key
    assert check_request(again.request.read_bytes(), MASTERD)


def test_a_file_that_is_no_key_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "pc1.key").write_bytes(b"precious")
    with pytest.raises(Invalid, match=r"pc1\.key: not a key in PEM format"):
        request(tmp_path, MASTERD)
    assert (tmp_path / "pc1.key").read_bytes() == b"precious"
