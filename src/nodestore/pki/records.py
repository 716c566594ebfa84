"""`issued.json`: what the authorities of one directory have issued, and what of it is revoked. No files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from nodestore.errors import Invalid
from nodestore.pki.identity import Subject

AuthorityName = Literal["cluster", "peers"]
_FORGET_AFTER_S = 2 * 365 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """One certificate. Times are seconds since 1970. `directory`: where its files were written.

    public_key: of the request that it was issued for, in base64; empty if its key was made here.
    """

    serial: str
    authority: AuthorityName
    identity: str
    names: tuple[str, ...]
    issued: float
    ends: float
    life_s: float
    directory: str
    revoked: float | None = None
    public_key: str = ""

    def is_due(self, now: float) -> bool:
        """Whether two thirds of its life are over."""
        return now >= self.ends - self.life_s / 3


@dataclass(frozen=True, slots=True)
class IssuedCertificates:
    """All certificates, in the order in which they were issued."""

    issued: tuple[IssuedCertificate, ...] = field(default=())

    def newest(self, identity: str, authority: AuthorityName) -> IssuedCertificate | None:
        """The newest certificate of an identity that is not revoked."""
        found = [item for item in self.issued if (item.identity, item.authority) == (identity, authority)]
        return next((item for item in reversed(found) if item.revoked is None), None)

    def identities(self) -> tuple[str, ...]:
        """Everybody who has a certificate that is not revoked, in alphabetical order."""
        return tuple(sorted({item.identity for item in self.issued if item.revoked is None}))

    def holders(self, authority: AuthorityName) -> tuple[str, ...]:
        """Everybody who has a certificate of this authority that is not revoked, in alphabetical order."""
        found = {item.identity for item in self.issued if item.authority == authority and item.revoked is None}
        return tuple(sorted(found))

    def revoked_by(self, authority: AuthorityName) -> dict[str, float]:
        """By serial number: when each certificate of this authority that is revoked was revoked."""
        return {
            item.serial: item.revoked
            for item in self.issued
            if item.authority == authority and item.revoked is not None
        }

    def is_revoked_key(self, public_key: str) -> bool:
        """Whether a certificate for the key of this request was revoked."""
        return any(item.public_key == public_key and item.revoked is not None for item in self.issued)

    def with_the_keys_of(self, records: Iterable[IssuedCertificate]) -> list[IssuedCertificate]:
        """These certificates, and all others that were issued for the key of one of them."""
        chosen = list(records)
        keys, serials = {item.public_key for item in chosen} - {""}, {item.serial for item in chosen}
        return [item for item in self.issued if item.serial in serials or item.public_key in keys]

    def with_issued(self, record: IssuedCertificate, now: float) -> IssuedCertificates:
        """With one more certificate. Those that ended two years ago are left out, but never a revoked one: a PC whose
        clock is wrong would accept it for ever."""
        kept = (item for item in self.issued if item.revoked is not None or item.ends > now - _FORGET_AFTER_S)
        return IssuedCertificates((*kept, record))

    def with_revoked(self, serials: frozenset[str], now: float) -> IssuedCertificates:
        return IssuedCertificates(
            tuple(
                replace(item, revoked=now) if item.serial in serials and item.revoked is None else item
                for item in self.issued
            )
        )

    def encode(self) -> bytes:
        return (json.dumps({"v": 1, "issued": [asdict(item) for item in self.issued]}, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, raw: bytes, path: Path) -> IssuedCertificates:
        """Read the content of the file. Raises Invalid, with the path, if it is malformed."""
        try:
            document = json.loads(raw)
            if document["v"] != 1:
                raise Invalid(f"{path} was written by a newer release of nodectl")
            return cls(tuple(_record(item) for item in document["issued"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Invalid(f"{path} is malformed: restore it from a backup") from None


def _record(item: dict[str, Any]) -> IssuedCertificate:
    known = {entry.name for entry in fields(IssuedCertificate)}
    values = {name: value for name, value in item.items() if name in known}
    values["names"] = tuple(values["names"])
    record = IssuedCertificate(**values)
    int(record.serial, 16)
    Subject.parse(record.identity)
    if record.authority not in ("cluster", "peers") or not record.ends - record.issued + record.life_s > 0:
        raise ValueError("not a certificate of ours")
    return record
