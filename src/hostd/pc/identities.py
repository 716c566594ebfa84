"""The certificates of a PC: which programs need one, the requests for them, and the files that a signer returns."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from hostd.pc.layout import Layout
from nodestore.errors import Invalid, NodectlError
from nodestore.pki.identity import SERVER_KINDS, Subject
from nodestore.pki.private_files import make_private_directory, write_public
from nodestore.pki.request_files import request
from nodestore.pki.signing_requests import PublicKey, check_request, key_of_certificate, public_key_text
from nodestore.schema.host_models import HostKind

KINDS_OF: Mapping[HostKind, tuple[str, ...]] = {
    "node": ("hostd", "noded"),
    "host": ("hostd", "noded", "etcd", "masterd", "maintenance"),
}
"""By kind of PC: the programs with a certificate. `maintenance` is for masterd's and a signer's calls to etcd."""
_FILE_BYTES_MAX = 1 << 20


def subjects_of(kind: HostKind, host: str) -> list[Subject]:
    return [Subject(program, host) for program in KINDS_OF[kind]]


def addresses_of(subject: Subject, kind: HostKind, address: str) -> tuple[str, ...]:
    """The names in a certificate: the address of the PC, if the program accepts connections.

    On a PC that only runs noded, none does. So who has a token for such a PC gets nothing that can pass as a server.
    """
    return (address,) if subject.kind in SERVER_KINDS and kind == "host" else ()


def make_requests(layout: Layout, kind: HostKind, host: str) -> dict[str, bytes]:
    """Make the keys of this PC that do not exist yet, and return by program the request for its certificate."""
    made = {subject.kind: request(layout.tls(subject.kind), subject) for subject in subjects_of(kind, host)}
    return {program: files.request.read_bytes() for program, files in made.items()}


def present_requests(layout: Layout, kind: HostKind, host: str) -> dict[str, bytes]:
    """The requests that this PC joined with. Nothing is written: the files belong to the users of the services."""
    found = {}
    for subject in subjects_of(kind, host):
        path = layout.tls(subject.kind) / f"{host}.csr"
        try:
            found[subject.kind] = path.read_bytes()
        except OSError as error:
            raise NodectlError(f"cannot read {path}: {error.strerror or error}") from None
    return found


def fingerprint(signing_request: bytes) -> str:
    """SHA-256 of the public key in a request. It is the same in each repeat of a join. Raises Invalid."""
    return _hash_of(check_request(signing_request).key)


def fingerprint_of_certificate(certificate: bytes) -> str:
    """SHA-256 of the public key in a certificate in DER format, to be compared with `fingerprint`. Raises Invalid."""
    return _hash_of(key_of_certificate(certificate))


def _hash_of(key: PublicKey) -> str:
    return hashlib.sha256(base64.b64decode(public_key_text(key))).hexdigest()


def write_certificates(layout: Layout, certificates: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    """Write what a signer returned: by program, by the name of the file. Returns what has changed."""
    changed = []
    for program, files in certificates.items():
        directory = layout.tls(program)
        make_private_directory(directory)
        for name, content in files.items():
            path = directory / _checked(name, content)
            if not path.exists() or path.read_bytes() != content:
                write_public(path, content)
                changed.append(f"{program}/{name}")
    return changed


def _checked(name: str, content: bytes) -> str:
    if Path(name).name != name or Path(name).suffix not in (".crt", ".crl") or len(content) > _FILE_BYTES_MAX:
        raise Invalid(f"the signer sent a file that is no certificate: {name[:64]!r}")
    return name
