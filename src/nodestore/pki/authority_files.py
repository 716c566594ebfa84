"""The files of the two authorities in their directory: certificates, keys, records, revocation lists, and the lock.

    ca.crt, ca.key              the authority of all certificates but those between etcd's members
    peer-ca.crt, peer-ca.key    the authority of the certificates between etcd's members
    issued.json                 every certificate, and which are revoked
    ca.crl, peer-ca.crl         revocation lists, made from issued.json
    issued/<kind>-<name>/       the files of one identity, to be copied to its PC
    ca-next.crt, ca-next.key    the authority that replaces another one: see `rotation.py`. So long ca.crt holds both

The process may die between any two writes. A certificate is recorded before it is signed, so none exists that could not
be revoked; a record without files does no harm, and the next `issue` makes the files. A revocation is recorded before
the lists are written, and every command first writes lists that do not match the records. The certificate of an
authority is written after its key, so an authority without a certificate has issued nothing, and is made anew.
One process at a time works in the directory: a second one is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nodestore.errors import Conflict, Invalid, NodectlError, NotFound
from nodestore.pki import signing
from nodestore.pki.identity import Subject
from nodestore.pki.private_files import write_private, write_public
from nodestore.pki.records import AuthorityName, IssuedCertificates
from nodestore.support.files.file_lock import lock_now
from nodestore.support.tls_files import read_revoked

STEMS: dict[AuthorityName, str] = {"cluster": "ca", "peers": "peer-ca"}
RECORDS, _LOCK = "issued.json", ".lock"


class DirectoryBusy(Conflict):
    """Another process works in the directory of the authorities. It takes a moment."""


class AuthorityFiles:
    """The files in `directory`. `clock`: seconds since 1970."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self.directory = directory.absolute()
        self._clock = clock

    def file(self, authority: AuthorityName, suffix: str) -> Path:
        return self.directory / f"{STEMS[authority]}.{suffix}"

    def next_file(self, authority: AuthorityName, suffix: str) -> Path:
        """A file of the authority that replaces this one."""
        return self.directory / f"{STEMS[authority]}-next.{suffix}"

    def leaf_files(self, directory: Path, identity: Subject, authority: AuthorityName) -> tuple[Path, Path]:
        """The certificate and the key of an identity in its directory."""
        stem = identity.name if authority == "cluster" else f"{identity.name}-peer"
        return directory / f"{stem}.crt", directory / f"{stem}.key"

    def default_directory(self, identity: Subject) -> Path:
        return self.directory / "issued" / f"{identity.kind}-{identity.name}"

    def require(self) -> None:
        """Raise NotFound if the authorities were not made here."""
        missing = [self.file(name, "crt") for name in STEMS if not self.file(name, "crt").exists()]
        if missing:
            raise NotFound(f"{missing[0]} does not exist: `nodectl pki init --dir {self.directory}` makes it")

    def authority_of_new_certificates(self, authority: AuthorityName) -> bytes:
        """The certificate of the authority that signs, in PEM format. Its key need not be here."""
        if self.file(authority, "key").exists():
            return self.signer(authority).pem
        return read_file(self.file(authority, "crt"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Work in the directory alone, and finish first what an earlier process may have left undone."""
        try:
            descriptor = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise NodectlError(f"cannot write in {self.directory}: {error.strerror or error}") from None
        try:
            try:
                lock_now(descriptor)
            except OSError:
                raise DirectoryBusy(
                    f"another `nodectl pki` works in {self.directory}: repeat this in a moment"
                ) from None
            if all(self.file(name, "crt").exists() for name in STEMS):
                self.write_lists()
                self.distribute()
            yield
        finally:
            os.close(descriptor)

    # --- authorities ---

    def make_authority(self, authority: AuthorityName, name: str) -> bool:
        """Make an authority, unless it exists. name: of the cluster."""
        if self.file(authority, "crt").exists():
            return False
        title = f"nodectl {name}" if authority == "cluster" else f"nodectl {name} etcd peers"
        certificate, key = signing.new_authority(title, self._clock())
        write_private(self.file(authority, "key"), key)
        self._write_list(authority, signing.Signer.load(certificate, key), IssuedCertificates())
        write_public(self.file(authority, "crt"), certificate)
        return True

    def signer(self, authority: AuthorityName) -> signing.Signer:
        """The authority that signs. Raises Invalid if its files do not belong together, NodectlError if one lacks."""
        files = [self.file(authority, suffix) for suffix in ("crt", "key")]
        try:
            return signing.Signer.load(*(file.read_bytes() for file in files))
        except OSError as error:
            raise NodectlError(f"cannot read {error.filename}: {error.strerror or error}") from None
        except Invalid as error:
            raise Invalid(f"{files[0]}, {files[1]}: {error}") from None

    def copy_public(self, directory: Path, authorities: Sequence[AuthorityName]) -> None:
        """Copy the authorities' certificates and the revocation lists to the files of an identity."""
        for authority in authorities:
            for suffix in ("crt", "crl"):
                _copy(self.file(authority, suffix), directory)

    # --- records and revocation lists ---

    def records(self) -> IssuedCertificates:
        path = self.directory / RECORDS
        try:
            return IssuedCertificates.decode(path.read_bytes(), path)
        except FileNotFoundError:
            return IssuedCertificates()
        except OSError as error:
            raise NodectlError(f"cannot read {path}: {error.strerror or error}") from None

    def save(self, records: IssuedCertificates) -> None:
        write_private(self.directory / RECORDS, records.encode())

    def write_lists(self) -> None:
        """Write the revocation lists that do not match the records."""
        records = self.records()
        for authority in STEMS:
            if records.revoked_by(authority).keys() != self._listed(authority):
                self._write_list(authority, self.signer(authority), records)

    def write_list(self, authority: AuthorityName) -> None:
        """Write the revocation list of one authority, signed by the authority that signs now."""
        self._write_list(authority, self.signer(authority), self.records())

    def distribute(self) -> None:
        """Copy authorities' certificates and revocation lists to the directories of all identities that have them."""
        for directory in {Path(item.directory) for item in self.records().issued if Path(item.directory).is_dir()}:
            for authority in STEMS:
                for suffix in ("crt", "crl"):
                    if (directory / self.file(authority, suffix).name).exists():
                        _copy(self.file(authority, suffix), directory)

    def _listed(self, authority: AuthorityName) -> set[str] | None:
        """The serial numbers in the present list; None if there is no readable one."""
        try:
            found = read_revoked(self.file(authority, "crl"))
        except Invalid:
            return None
        return {signing.format_serial(int.from_bytes(serial, "big")) for _, serial in found}

    def _write_list(self, authority: AuthorityName, signer: signing.Signer, records: IssuedCertificates) -> None:
        revoked = records.revoked_by(authority).items()
        write_public(self.file(authority, "crl"), signing.revocation_list(signer, revoked, self._clock()))


def read_file(path: Path) -> bytes:
    """The content of a file. Raises NodectlError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise NodectlError(f"cannot read {path}: {error.strerror or error}") from None


def _copy(source: Path, directory: Path) -> None:
    content, target = read_file(source), directory / source.name
    if not target.exists() or read_file(target) != content:
        write_public(target, content)
