"""Makes requests for certificates (PKCS #10), and checks those that another PC has made. No files.

The key of a request never leaves the PC that made it. A request proves that its sender has the key, and nothing else:
the authority decides whom the certificate names, and at which addresses it may serve.
"""

from __future__ import annotations

import base64
import ipaddress
import warnings
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from nodestore.errors import Invalid
from nodestore.pki.identity import COMMON_NAME_CHARS_MAX, Subject

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
REQUEST_BYTES_MAX = 16_384
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_RSA_BITS_MIN, _RSA_BITS_MAX = 2_048, 8_192
_RSA_EXPONENT_MIN = 65_537
_ADDRESSES_MAX = 100
_MALFORMED = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What the library raises for malformed or unusual input. The last three are no kinds of ValueError."""


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request whose sender has the key. `asked`: the addresses that it asks for; a certificate need not have them."""

    identity: Subject
    key: PublicKey
    asked: tuple[str, ...] = ()


def new_request(identity: Subject, key: PrivateKey) -> bytes:
    """A request in PEM format for a certificate that names `identity`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def load_key(content: bytes) -> PrivateKey:
    """A private key in PEM format without a password. Raises Invalid if it is none, or if it is weak."""
    try:
        key = serialization.load_pem_private_key(content, None)
    except _MALFORMED:
        raise Invalid("not a key in PEM format, or it has a password") from None
    _checked_key(key.public_key())
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)  # which the check of its public key shows
    return key


def check_request(content: bytes, expected: Subject | None = None) -> CheckedRequest:
    """Read a request in PEM format from a sender that is not trusted. Raises Invalid, with one line that says why.

    The subject must be exactly `CN=<kind>:<name>`, and name `expected` if that is given. The signature must be that of
    the key, and the key must be strong. Everything else that the request asks for is ignored, such as to be an
    authority, or to serve at some address.
    """
    request = _parse(content)
    identity = _identity_of(request)
    if expected is not None and identity != expected:
        raise Invalid(f"the request is for {identity}, not for {expected}")
    key = _strong_key(request)
    if not _is_signed(request):
        raise Invalid("the request is not signed by its own key")
    return CheckedRequest(identity, key, _asked_by(request))


def public_key_text(key: PublicKey) -> str:
    """The key as the records hold it: its SubjectPublicKeyInfo in base64."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode("ascii")


def key_of_certificate(certificate: bytes) -> PublicKey:
    """The key in a certificate in DER format. Raises Invalid."""
    try:
        return _checked_key(x509.load_der_x509_certificate(certificate).public_key())
    except _MALFORMED:
        raise Invalid("malformed certificate") from None


def read_public_key(text: str) -> PublicKey:
    """The key that `public_key_text` wrote. Raises Invalid."""
    try:
        return _checked_key(serialization.load_der_public_key(base64.b64decode(text, validate=True)))
    except _MALFORMED:
        raise Invalid("malformed public key") from None


def _parse(content: bytes) -> x509.CertificateSigningRequest:
    if len(content) > REQUEST_BYTES_MAX:
        raise Invalid(f"a request has at most {REQUEST_BYTES_MAX} bytes")
    try:
        return x509.load_pem_x509_csr(content)
    except _MALFORMED:
        raise Invalid("not a request for a certificate in PEM format (BEGIN CERTIFICATE REQUEST)") from None


def _identity_of(request: x509.CertificateSigningRequest) -> Subject:
    try:
        with warnings.catch_warnings(action="ignore"):  # about a length that is refused below
            attributes = list(request.subject)
    except _MALFORMED:
        raise Invalid("the subject of the request is malformed") from None
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        raise Invalid("the subject of the request is not a single CN=KIND:NAME, such as CN=masterd:pc1")
    text = str(attributes[0].value)
    if len(text) > COMMON_NAME_CHARS_MAX:  # a message must not repeat a long text
        raise Invalid(f"the subject of the request has more than {COMMON_NAME_CHARS_MAX} characters")
    return Subject.parse(text)


def _strong_key(request: x509.CertificateSigningRequest) -> PublicKey:
    try:
        key = request.public_key()
    except _MALFORMED:
        raise Invalid("the key of the request is of an unknown kind: use ECDSA P-256, or RSA of 2048 bits") from None
    return _checked_key(key)


def _checked_key(key: object) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey) and _is_strong(key):
        return key
    raise Invalid("the key is weak or of another kind: use ECDSA P-256, P-384 or P-521, or RSA of 2048 to 8192 bits")


def _is_strong(key: rsa.RSAPublicKey) -> bool:
    return _RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX and key.public_numbers().e >= _RSA_EXPONENT_MIN


def _is_signed(request: x509.CertificateSigningRequest) -> bool:
    try:
        return request.is_signature_valid
    except _MALFORMED:
        return False


def _asked_by(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    """The addresses that the request names, for a message to the person who signs it."""
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName)
        addresses = names.get_values_for_type(x509.IPAddress)
    except (*_MALFORMED, x509.ExtensionNotFound):
        return ()
    usual = [str(item) for item in addresses if isinstance(item, ipaddress.IPv4Address | ipaddress.IPv6Address)]
    return tuple(dict.fromkeys((*hosts, *usual)))[:_ADDRESSES_MAX]
