"""Makes keys, certificates and revocation lists, in the formats of RFC 5280. No files.

Only this module and `signing_requests.py` import the package `cryptography`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodestore.errors import Invalid
from nodestore.pki.identity import SERVER_KINDS, Subject
from nodestore.support.values import parse_host

_BEGINS = datetime(1970, 1, 1, tzinfo=UTC)
"""When every certificate begins. A PC whose clock has no battery wakes in 1970, and must reach the cluster to learn the
time. A later beginning would protect from nothing: a certificate that must not be used any more is revoked."""
AUTHORITY_LIFE_S = 20 * 365.25 * 86_400


@dataclass(frozen=True, slots=True)
class Signer:
    """The certificate and the key of an authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, certificates: bytes, key: bytes) -> Signer:
        """Read both in PEM format: the one of several certificates that belongs to the key.

        Raises Invalid if they cannot be used, or do not belong together.
        """
        try:
            loaded = serialization.load_pem_private_key(key, None)
            authorities = x509.load_pem_x509_certificates(certificates)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise Invalid("not a certificate and its key in PEM format, or the key has a password") from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise Invalid("the key is not of the kind that `nodectl pki init` makes")
        found = [item for item in authorities if item.public_key() == loaded.public_key()]
        if not found:
            raise Invalid("the key does not belong to the certificate")
        return cls(found[0], loaded)

    @property
    def name(self) -> str:
        """The common name of the authority."""
        return common_name(self.pem)

    @property
    def pem(self) -> bytes:
        """The certificate in PEM format."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """A certificate in PEM format, and what a record of it holds."""

    certificate: bytes
    serial: str
    ends: float


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key in PEM format, without a password: its file must be private."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_authority(name: str, now: float) -> tuple[bytes, bytes]:
    """A self-signed certificate of an authority with this common name, and its key, both in PEM format."""
    key, subject = new_key(), _subject(name)
    builder = _builder(subject, subject, key.public_key(), _at(now + AUTHORITY_LIFE_S), x509.random_serial_number())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    certificate = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    ).sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), key_bytes(key)


def new_serial() -> int:
    """A random serial number, under which a certificate can be recorded before it exists."""
    return x509.random_serial_number()


def sign(
    signer: Signer,
    public_key: CertificatePublicKeyTypes,
    identity: Subject,
    names: Sequence[str],
    ends: float,
    serial: int,
) -> SignedCertificate:
    """A certificate for `identity`. `names`: DNS names and IP addresses at which it may serve; see `check_names`.

    Its end is not after the end of the authority.
    """
    end = min(_at(ends), signer.certificate.not_valid_after_utc)
    builder = _builder(_subject(str(identity)), signer.certificate.subject, public_key, end, serial)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.kind in SERVER_KINDS:
        purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False
        )
    )  # fmt: skip
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
    certificate = builder.sign(signer.key, hashes.SHA256())
    return SignedCertificate(
        certificate.public_bytes(serialization.Encoding.PEM), format_serial(serial), end.timestamp()
    )


def revocation_list(signer: Signer, revoked: Iterable[tuple[str, float]], now: float) -> bytes:
    """A revocation list in DER format, of serial numbers and the times at which they were revoked.

    etcd reads no other format. The list stays in force until the authority ends: an expired list must not stop a
    cluster.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(_at(now))
        .next_update(max(signer.certificate.not_valid_after_utc, _at(now) + timedelta(days=1)))
        .add_extension(x509.CRLNumber(max(0, int(now))), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
    )
    for serial, time in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(_at(time)).build()
        )
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def is_issued_by(certificate: bytes, authorities: bytes) -> bool:
    """Whether the first of `authorities` has signed a certificate; both in PEM format. False if one is malformed."""
    try:
        issuer = x509.load_pem_x509_certificates(authorities)[0]
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def certificates_in(content: bytes) -> list[bytes]:
    """Each certificate of a file in PEM format by itself. Raises Invalid."""
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise Invalid("malformed certificates") from None
    return [item.public_bytes(serialization.Encoding.PEM) for item in found]


def common_name(certificate: bytes) -> str:
    """Return the common name of a certificate in PEM format, empty if it has none or several. Raises ValueError."""
    names = x509.load_pem_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """DNS names and IP addresses in their usual form, each once. Raises Invalid."""
    return tuple(dict.fromkeys(parse_host(name, wildcard=True) for name in names))


def format_serial(serial: int) -> str:
    """The serial number as `ssl` shows it: hexadecimal digits in upper case, an even number of them."""
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else f"0{text}"


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, end: datetime, serial: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(serial).not_valid_before(_BEGINS).not_valid_after(end)


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=authority, crl_sign=authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _at(time: float) -> datetime:
    return datetime.fromtimestamp(int(time), UTC)
