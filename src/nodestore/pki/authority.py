"""The directory of the two authorities: makes them, issues, renews and revokes certificates.

    ca.crt, ca.key              the authority of all certificates but those between etcd's members
    peer-ca.crt, peer-ca.key    the authority of the certificates between etcd's members
    issued.json                 every certificate, and which are revoked
    ca.crl, peer-ca.crl         revocation lists, made from issued.json
    issued/<kind>-<name>/       the files of one identity, to be copied to its PC

The process may die between any two writes. A certificate is recorded before it is signed, so none exists that could not
be revoked; a record without files does no harm, and the next `issue` makes the files. A revocation is recorded before
the lists are written, and every command first writes lists that do not match the records. The certificate of an
authority is written after its key, so an authority without a certificate has issued nothing, and is made anew.
One process at a time works in the directory: a second one is refused.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodestore.errors import Conflict, Invalid, NodectlError, NotFound
from nodestore.pki import signing
from nodestore.pki.identity import SERVER_KINDS, Subject
from nodestore.pki.private_files import is_exposed, make_private_directory, write_private, write_public
from nodestore.pki.records import AuthorityName, IssuedCertificate, IssuedCertificates
from nodestore.support.file_lock import lock_now
from nodestore.support.tls_files import certificate_end_of, read_revoked

LIFE_S = 90 * 86_400.0
LIFE_MIN_S, LIFE_MAX_S = 5.0, 1_825 * 86_400.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_STEMS: dict[AuthorityName, str] = {"cluster": "ca", "peers": "peer-ca"}
_RECORDS, _LOCK = "issued.json", ".lock"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `issue` did for one identity. `changed`: whether new certificates were made."""

    identity: Subject
    directory: Path
    ends: float
    changed: bool


@dataclass(frozen=True, slots=True)
class AuthorityFiles:
    """One authority, for display."""

    name: AuthorityName
    certificate: Path
    ends: float
    has_key: bool


class Authorities:
    """The two authorities in `directory`. `clock`: seconds since 1970."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory.absolute()
        self._clock = clock

    # --- commands ---

    def init(self, name: str) -> list[AuthorityName]:
        """Make the authorities that do not exist yet, and return their names. `name`: of the cluster."""
        make_private_directory(self.directory)
        with self._locked():
            return [authority for authority in _STEMS if self._make(authority, name)]

    def issue(
        self, identity: Subject, names: Sequence[str] = (), *, life_s: float | None = None, out: Path | None = None,
        force: bool = False,
    ) -> Bundle:  # fmt: skip
        """Issue the certificates of an identity, unless those that it has can serve.

        names: DNS names and IP addresses of its PC; those of loopback are added. Only for kinds that serve. Without
        names, those of the last certificate. life_s: default: that of the last certificate, or 90 days. out: the
        directory for the files; default: that of the last certificate, or issued/<kind>-<name>. force: issue new ones
        in any case.
        """
        checked = signing.check_names(names)
        if checked and identity.kind not in SERVER_KINDS:
            raise Invalid(f"{identity} accepts no connections, so its certificate needs no address")
        if life_s is not None and not LIFE_MIN_S <= life_s <= LIFE_MAX_S:
            raise Invalid(f"a certificate lives for {LIFE_MIN_S:g} s to {LIFE_MAX_S / 86_400:g} days")
        self._require()
        with self._locked():
            return self._issue(identity, checked, life_s=life_s, out=out, force=force)

    def renew(self, identities: Sequence[Subject] = (), *, force: bool = False) -> list[Bundle]:
        """Renew the certificates of these identities (none: of all) whose life is over by two thirds.

        force: renew them in any case. Raises NotFound for an identity without a certificate.
        """
        self._require()
        with self._locked():
            known = self._records().identities()
            for identity in identities:
                if str(identity) not in known:
                    raise NotFound(f"{identity} has no certificate that could be renewed: issue one")
            wanted = [str(identity) for identity in identities] or list(known)
            return [self._issue(Subject.parse(text), (), life_s=None, out=None, force=force) for text in wanted]

    def revoke(self, identity: Subject, serial: str | None = None) -> list[str]:
        """Revoke all certificates of an identity, or the one with this serial number. Returns the serial numbers.

        Also certificates that have ended: a PC with a wrong clock would accept them. Raises NotFound if there is none.
        Idempotent: certificates that are revoked already are returned too.
        """
        self._require()
        with self._locked():
            records = self._records()
            found = [item for item in records.issued if item.identity == str(identity)]
            if serial is not None:
                found = [item for item in found if item.serial == serial.upper()]
            if not found:
                which = "no certificate" if serial is None else f"no certificate {serial}"
                raise NotFound(f"{identity} has {which} in {self.directory / _RECORDS}")
            self._save(records.with_revoked(frozenset(item.serial for item in found), self._clock()))
            self._write_lists()
            return [item.serial for item in found]

    def records(self) -> IssuedCertificates:
        """Every certificate that was issued."""
        self._require()
        return self._records()

    def authorities(self) -> list[AuthorityFiles]:
        """Both authorities. Raises NotFound if they were not made here."""
        self._require()
        certificates = {name: self._file(name, "crt") for name in _STEMS}
        return [
            AuthorityFiles(name, certificate, certificate_end_of(certificate), self._file(name, "key").exists())
            for name, certificate in certificates.items()
        ]

    def warnings(self) -> list[str]:
        """Keys that others than their owner can read."""
        keys = [*self.directory.glob("*.key"), *self.directory.glob("issued/*/*.key")]
        return [f"{key} can be read by others than its owner: chmod 600 {key}" for key in keys if is_exposed(key)]

    # --- the authorities ---

    def _make(self, authority: AuthorityName, name: str) -> bool:
        if self._file(authority, "crt").exists():
            return False
        title = f"nodectl {name}" if authority == "cluster" else f"nodectl {name} etcd peers"
        certificate, key = signing.new_authority(title, self._clock())
        write_private(self._file(authority, "key"), key)
        self._write_list(authority, signing.Signer.load(certificate, key), IssuedCertificates())
        write_public(self._file(authority, "crt"), certificate)
        return True

    def _require(self) -> None:
        missing = [self._file(name, "crt") for name in _STEMS if not self._file(name, "crt").exists()]
        if missing:
            raise NotFound(f"{missing[0]} does not exist: `nodectl pki init --dir {self.directory}` makes it")

    def _signer(self, authority: AuthorityName) -> signing.Signer:
        files = [self._file(authority, suffix) for suffix in ("crt", "key")]
        try:
            return signing.Signer.load(*(file.read_bytes() for file in files))
        except OSError as error:
            raise NodectlError(f"cannot read {error.filename}: {error.strerror or error}") from None
        except Invalid as error:
            raise Invalid(f"{files[0]}, {files[1]}: {error}") from None

    def _file(self, authority: AuthorityName, suffix: str) -> Path:
        return self.directory / f"{_STEMS[authority]}.{suffix}"

    # --- certificates ---

    def _issue(
        self, identity: Subject, names: tuple[str, ...], *, life_s: float | None, out: Path | None, force: bool
    ) -> Bundle:
        wanted: list[AuthorityName] = ["cluster", "peers"] if identity.kind == "etcd" else ["cluster"]
        records, now = self._records(), self._clock()
        last = records.newest(str(identity), "cluster")
        directory = (out or _directory_of(last) or self._default_directory(identity)).absolute()
        names = tuple(dict.fromkeys((*names, *LOOPBACK))) if names else _names_of(last, identity)
        life_s = life_s or (last.life_s if last is not None else LIFE_S)
        make_private_directory(directory)
        ends = []
        changed = False
        for authority in wanted:
            record = records.newest(str(identity), authority)
            plan = (names, life_s, str(directory))
            has_files = all(file.exists() for file in self._leaf_files(directory, identity, authority))
            if force or record is None or record.is_due(now) or not has_files or plan != _plan_of(record):
                record, changed = self._issue_one(authority, identity, names, life_s, directory), True
            ends.append(record.ends)
        self._copy_public(directory, wanted)
        return Bundle(identity, directory, min(ends), changed)

    def _issue_one(
        self, authority: AuthorityName, identity: Subject, names: tuple[str, ...], life_s: float, directory: Path
    ) -> IssuedCertificate:
        signer, key, serial, now = self._signer(authority), signing.new_key(), signing.new_serial(), self._clock()
        # As peers etcd's members accept each other, so each certificate serves both ends of a connection.
        issued = signing.sign(signer, key.public_key(), identity, names, now + life_s, serial)
        record = IssuedCertificate(
            serial=issued.serial, authority=authority, identity=str(identity), names=names, issued=now,
            ends=issued.ends, life_s=life_s, directory=str(directory),
        )  # fmt: skip
        self._save(self._records().with_issued(record, now))
        certificate_file, key_file = self._leaf_files(directory, identity, authority)
        write_private(key_file, signing.key_bytes(key))
        write_public(certificate_file, issued.certificate)
        return record

    def _leaf_files(self, directory: Path, identity: Subject, authority: AuthorityName) -> tuple[Path, Path]:
        stem = identity.name if authority == "cluster" else f"{identity.name}-peer"
        return directory / f"{stem}.crt", directory / f"{stem}.key"

    def _copy_public(self, directory: Path, authorities: Sequence[AuthorityName]) -> None:
        """Copy the authorities' certificates and the revocation lists to the files of an identity."""
        for authority in authorities:
            for suffix in ("crt", "crl"):
                _copy(self._file(authority, suffix), directory)

    def _default_directory(self, identity: Subject) -> Path:
        return self.directory / "issued" / f"{identity.kind}-{identity.name}"

    # --- records and revocation lists ---

    def _records(self) -> IssuedCertificates:
        path = self.directory / _RECORDS
        try:
            return IssuedCertificates.decode(path.read_bytes(), path)
        except FileNotFoundError:
            return IssuedCertificates()
        except OSError as error:
            raise NodectlError(f"cannot read {path}: {error.strerror or error}") from None

    def _save(self, records: IssuedCertificates) -> None:
        write_private(self.directory / _RECORDS, records.encode())

    def _write_lists(self) -> None:
        """Write the revocation lists that do not match the records, here and in the directories of all identities."""
        records = self._records()
        for authority in _STEMS:
            if records.revoked_by(authority).keys() != self._listed(authority):
                self._write_list(authority, self._signer(authority), records)
        for directory in {Path(item.directory) for item in records.issued if Path(item.directory).is_dir()}:
            for authority in _STEMS:
                if (directory / self._file(authority, "crl").name).exists():
                    _copy(self._file(authority, "crl"), directory)

    def _listed(self, authority: AuthorityName) -> set[str] | None:
        """The serial numbers in the present list; None if there is no readable one."""
        try:
            found = read_revoked(self._file(authority, "crl"))
        except Invalid:
            return None
        return {signing.format_serial(int.from_bytes(serial, "big")) for _, serial in found}

    def _write_list(self, authority: AuthorityName, signer: signing.Signer, records: IssuedCertificates) -> None:
        revoked = records.revoked_by(authority).items()
        write_public(self._file(authority, "crl"), signing.revocation_list(signer, revoked, self._clock()))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Work in the directory alone, and finish first what an earlier process may have left undone."""
        try:
            descriptor = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise NodectlError(f"cannot write in {self.directory}: {error.strerror or error}") from None
        try:
            try:
                lock_now(descriptor)
            except OSError:
                raise Conflict(f"another `nodectl pki` works in {self.directory}: repeat this in a moment") from None
            if all(self._file(name, "crt").exists() for name in _STEMS):
                self._write_lists()
            yield
        finally:
            os.close(descriptor)


def _copy(source: Path, directory: Path) -> None:
    try:
        content, target = source.read_bytes(), directory / source.name
        if target.exists() and target.read_bytes() == content:
            return
    except OSError as error:
        raise NodectlError(f"cannot read {error.filename}: {error.strerror or error}") from None
    write_public(target, content)


def _plan_of(record: IssuedCertificate) -> tuple[tuple[str, ...], float, str]:
    return record.names, record.life_s, record.directory


def _directory_of(record: IssuedCertificate | None) -> Path | None:
    return None if record is None else Path(record.directory)


def _names_of(record: IssuedCertificate | None, identity: Subject) -> tuple[str, ...]:
    """The names of the last certificate; for the first one of a kind that serves, those of loopback."""
    if record is not None:
        return record.names
    return LOOPBACK if identity.kind in SERVER_KINDS else ()
