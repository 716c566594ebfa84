"""The two authorities of a cluster: makes them, issues, renews and revokes certificates.

`authority_files.py` describes the directory, and what a process that dies between two writes leaves behind.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodestore.errors import Conflict, Invalid, NotFound
from nodestore.pki import rotation, signing
from nodestore.pki.act_log import ActLog
from nodestore.pki.authority_files import RECORDS, STEMS, AuthorityFiles, read_file
from nodestore.pki.identity import SERVER_KINDS, Subject
from nodestore.pki.private_files import is_exposed, make_private_directory, write_private, write_public
from nodestore.pki.records import AuthorityName, IssuedCertificate, IssuedCertificates
from nodestore.pki.rotation import RotationStep
from nodestore.pki.signing_requests import PublicKey, check_request, load_key, public_key_text, read_public_key
from nodestore.support.tls_files import certificate_end_of

LIFE_S = 90 * 86_400.0
LIFE_MIN_S, LIFE_MAX_S = 5.0, 1_825 * 86_400.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `issue` did for one identity. `changed`: whether new certificates were made."""

    identity: Subject
    directory: Path
    ends: float
    changed: bool
    files: tuple[Path, ...] = ()
    """Certificates, the authorities' certificates and the revocation lists: what its PC needs, but for the key."""

    def contents(self) -> dict[str, bytes]:
        """The content of each of `files`, by its name. Nothing of it is secret."""
        return {file.name: read_file(file) for file in self.files}


@dataclass(frozen=True, slots=True)
class AuthorityView:
    """One authority, for display."""

    name: AuthorityName
    certificate: Path
    ends: float
    has_key: bool
    rotation: RotationStep | None
    """The last step of its replacement; None if it is not being replaced."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What an identity's certificates must be. `key`: the key of a request; None: a key that is made here."""

    identity: Subject
    names: tuple[str, ...] = ()
    life_s: float | None = None
    out: Path | None = None
    force: bool = False
    key: PublicKey | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a certificate is issued, with what the last one has where nothing else was asked for.

    public_key: of a request, as the records hold it; empty if the key is made here.
    """

    identity: Subject
    names: tuple[str, ...]
    life_s: float
    directory: Path
    public_key: str

    def matches(self, record: IssuedCertificate) -> bool:
        wanted = (self.names, self.life_s, str(self.directory), self.public_key)
        return wanted == (record.names, record.life_s, record.directory, record.public_key)


class Authorities:
    """The two authorities in `directory`. `clock`: seconds since 1970."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._files = AuthorityFiles(directory, clock)
        self._acts = ActLog(self._files.directory, clock)
        self._clock = clock

    @property
    def directory(self) -> Path:
        return self._files.directory

    # --- commands ---

    def init(self, name: str) -> list[AuthorityName]:
        """Make the authorities that do not exist yet, and return their names. `name`: of the cluster."""
        make_private_directory(self.directory)
        with self._files.locked():
            made = [authority for authority in STEMS if self._files.make_authority(authority, name)]
            for authority in made:
                self._acts.record("authority made", f"{authority} of {name}")
            return made

    def issue(
        self, identity: Subject, names: Sequence[str] = (), *, life_s: float | None = None, out: Path | None = None,
        force: bool = False,
    ) -> Bundle:  # fmt: skip
        """Issue the certificates of an identity, unless those that it has can serve.

        names: DNS names and IP addresses of its PC; those of loopback are added. Only for kinds that serve. Without
        names, those of the last certificate. life_s: default: that of the last certificate, or 90 days. out: the
        directory for the files; default: that of the last certificate, or issued/<kind>-<name>. force: issue new ones
        in any case.

        If the last certificate was issued by `sign_request`, the same key is certified again, and stays on its PC.
        """
        return self._do(_Wish(identity, _checked(identity, names), _checked_life(life_s), out, force))

    def sign_request(
        self, identity: Subject, request: bytes, names: Sequence[str] = (), *, life_s: float | None = None,
        out: Path | None = None, force: bool = False,
    ) -> Bundle:  # fmt: skip
        """Issue the certificates of an identity for a key that is on its PC. The other arguments are those of `issue`.

        request: in PEM format, from a sender that is not trusted; see `check_request`. The certificate names
        `identity`, and no address but those of `names` and of loopback. A member of etcd gets both of its certificates
        for the one key. Idempotent: the same request again returns the same certificates.

        Raises Invalid if the request is not for `identity` or its key is weak, Conflict if its key was revoked.
        """
        key = check_request(request, identity).key
        return self._do(_Wish(identity, _checked(identity, names), _checked_life(life_s), out, force, key))

    def renew(self, identities: Sequence[Subject] = (), *, force: bool = False) -> list[Bundle]:
        """Renew the certificates of these identities (none: of all) whose life is over by two thirds.

        Those that have ended too. force: renew them in any case. Raises NotFound for an identity without a certificate.
        """
        self._files.require()
        with self._files.locked():
            known = self._files.records().identities()
            for identity in identities:
                if str(identity) not in known:
                    raise NotFound(f"{identity} has no certificate that could be renewed: issue one")
            wanted = [str(identity) for identity in identities] or list(known)
            return [self._issue(_Wish(Subject.parse(text), force=force)) for text in wanted]

    def revoke(self, identity: Subject, serial: str | None = None) -> list[str]:
        """Revoke all certificates of an identity, or the one with this serial number. Returns the serial numbers.

        Also certificates that have ended: a PC with a wrong clock would accept them; and all others of the same key.
        Raises NotFound if there is none. Idempotent: certificates that are revoked already are returned too.
        """
        self._files.require()
        with self._files.locked():
            records = self._files.records()
            found = [item for item in records.issued if item.identity == str(identity)]
            if serial is not None:
                found = [item for item in found if item.serial == serial.upper()]
            if not found:
                which = "no certificate" if serial is None else f"no certificate {serial}"
                raise NotFound(f"{identity} has {which} in {self.directory / RECORDS}")
            found = records.with_the_keys_of(found)
            self._files.save(records.with_revoked(frozenset(item.serial for item in found), self._clock()))
            self._files.write_lists()
            self._files.distribute()
            known = {item.serial for item in records.issued if item.revoked is not None}
            if fresh := [item.serial for item in found if item.serial not in known]:
                self._acts.record("certificates revoked", f"{identity}: {', '.join(fresh)}")
            return [item.serial for item in found]

    def rotate(self, authority: AuthorityName, step: RotationStep) -> list[Bundle]:
        """Do one step of the replacement of an authority: see `rotation.py`. Returns what was issued. Idempotent.

        Before the next step, the files must be on all PCs. Raises Conflict if the steps before it were not done.
        """
        self._files.require()
        with self._files.locked():
            issued: list[Bundle] = []
            if step == "trust":
                rotation.trust(self._files, authority, self._clock())
            elif step == "reissue":
                rotation.begin_to_sign(self._files, authority)
                holders = self._files.records().holders(authority)
                issued = [self._issue(_Wish(Subject.parse(text))) for text in holders]
            else:
                rotation.remove(self._files, authority, self._not_reissued(authority))
            self._acts.record("authority replaced", f"{authority}, step {step}")
            return issued

    def _not_reissued(self, authority: AuthorityName) -> list[str]:
        """Whose certificate is not of the authority that signs now."""
        missing = []
        for identity in self._files.records().holders(authority):
            record = self._files.records().newest(identity, authority)
            assert record is not None
            certificate, _ = self._files.leaf_files(Path(record.directory), Subject.parse(identity), authority)
            if not certificate.exists() or not self._is_of_now(certificate, authority):
                missing.append(identity)
        return missing

    def records(self) -> IssuedCertificates:
        """Every certificate that was issued."""
        self._files.require()
        return self._files.records()

    def authorities(self) -> list[AuthorityView]:
        """Both authorities. Raises NotFound if they were not made here."""
        self._files.require()
        certificates = {name: self._files.file(name, "crt") for name in STEMS}
        return [
            AuthorityView(
                name,
                certificate,
                certificate_end_of(certificate),
                self._files.file(name, "key").exists(),
                rotation.last_step(self._files, name),
            )
            for name, certificate in certificates.items()
        ]

    def warnings(self) -> list[str]:
        """Keys that others than their owner can read."""
        keys = [*self.directory.glob("*.key"), *self.directory.glob("issued/*/*.key")]
        return [f"{key} can be read by others than its owner: chmod 600 {key}" for key in keys if is_exposed(key)]

    # --- certificates ---

    def _do(self, wish: _Wish) -> Bundle:
        self._files.require()
        with self._files.locked():
            return self._issue(wish)

    def _issue(self, wish: _Wish) -> Bundle:
        """Issue what is missing of an identity's certificates."""
        wanted: list[AuthorityName] = ["cluster", "peers"] if wish.identity.kind == "etcd" else ["cluster"]
        plan = self._plan(wish)
        make_private_directory(plan.directory)
        found = {name: self._files.records().newest(str(wish.identity), name) for name in wanted}
        issued = [self._issue_one(name, plan) for name in wanted if wish.force or not self._serves(found[name], plan)]
        records = {**found, **{record.authority: record for record in issued}}
        self._files.copy_public(plan.directory, wanted)
        ends = min(record.ends for record in records.values() if record is not None)
        return Bundle(wish.identity, plan.directory, ends, bool(issued), self._public_files(plan, wanted))

    def _plan(self, wish: _Wish) -> _Plan:
        records, identity = self._files.records(), wish.identity
        last = records.newest(str(identity), "cluster")
        directory = wish.out or (None if last is None else Path(last.directory))
        names = tuple(dict.fromkeys((*wish.names, *LOOPBACK))) if wish.names else _names_of(last, identity)
        life_s = wish.life_s or (LIFE_S if last is None else last.life_s)
        key = public_key_text(wish.key) if wish.key is not None else "" if last is None else last.public_key
        if key and records.is_revoked_key(key):
            raise Conflict(f"the key of this request was revoked: make a new key and request on the PC of {identity}")
        return _Plan(identity, names, life_s, (directory or self._files.default_directory(identity)).absolute(), key)

    def _serves(self, record: IssuedCertificate | None, plan: _Plan) -> bool:
        """Whether a certificate can be kept."""
        if record is None or record.is_due(self._clock()) or not plan.matches(record):
            return False
        certificate, key = self._files.leaf_files(plan.directory, plan.identity, record.authority)
        has_key = key.exists() if not plan.public_key else not key.exists() or _is_of(key, plan.public_key)
        return has_key and certificate.exists() and self._is_of_now(certificate, record.authority)

    def _is_of_now(self, certificate: Path, authority: AuthorityName) -> bool:
        """Whether it was issued by the authority that signs now, and not by one that is being replaced."""
        return signing.is_issued_by(read_file(certificate), self._files.authority_of_new_certificates(authority))

    def _issue_one(self, authority: AuthorityName, plan: _Plan) -> IssuedCertificate:
        own = None if plan.public_key else signing.new_key()
        public = read_public_key(plan.public_key) if own is None else own.public_key()
        signer, serial, now = self._files.signer(authority), signing.new_serial(), self._clock()
        # As peers etcd's members accept each other, so each certificate serves both ends of a connection.
        issued = signing.sign(signer, public, plan.identity, plan.names, now + plan.life_s, serial)
        record = IssuedCertificate(
            serial=issued.serial, authority=authority, identity=str(plan.identity), names=plan.names, issued=now,
            ends=issued.ends, life_s=plan.life_s, directory=str(plan.directory), public_key=plan.public_key,
        )  # fmt: skip
        self._files.save(self._files.records().with_issued(record, now))
        certificate_file, key_file = self._files.leaf_files(plan.directory, plan.identity, authority)
        if own is not None:
            write_private(key_file, signing.key_bytes(own))
        write_public(certificate_file, issued.certificate)
        if own is None and key_file.exists() and not _is_of(key_file, plan.public_key):
            key_file.unlink()  # of an earlier certificate, whose key was made here
        self._acts.record("certificate issued", f"{record.identity} of {authority}, serial {record.serial}")
        return record

    def _public_files(self, plan: _Plan, authorities: Sequence[AuthorityName]) -> tuple[Path, ...]:
        certificates = [self._files.leaf_files(plan.directory, plan.identity, name)[0] for name in authorities]
        shared = [
            plan.directory / self._files.file(name, suffix).name for name in authorities for suffix in ("crt", "crl")
        ]
        return (*certificates, *shared)


def _checked(identity: Subject, names: Sequence[str]) -> tuple[str, ...]:
    checked = signing.check_names(names)
    if checked and identity.kind not in SERVER_KINDS:
        raise Invalid(f"{identity} accepts no connections, so its certificate needs no address")
    return checked


def _checked_life(life_s: float | None) -> float | None:
    if life_s is not None and not LIFE_MIN_S <= life_s <= LIFE_MAX_S:
        raise Invalid(f"a certificate lives for {LIFE_MIN_S:g} s to {LIFE_MAX_S / 86_400:g} days")
    return life_s


def _is_of(key_file: Path, public_key: str) -> bool:
    """Whether a file holds the private key that belongs to this public key."""
    with contextlib.suppress(Invalid):
        return public_key_text(load_key(read_file(key_file)).public_key()) == public_key
    return False


def _names_of(record: IssuedCertificate | None, identity: Subject) -> tuple[str, ...]:
    """The names of the last certificate; for the first one of a kind that serves, those of loopback."""
    if record is not None:
        return record.names
    return LOOPBACK if identity.kind in SERVER_KINDS else ()
