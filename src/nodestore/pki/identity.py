"""Whom a certificate names: its subject is `CN=<kind>:<name>`, such as `CN=masterd:pc1`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodesdk.names import check_name
from nodestore.errors import Invalid

KINDS = ("host", "masterd", "noded", "hostd", "operator", "etcd", "automation", "maintenance")
"""`automation` and `maintenance` are users of etcd only (nodestore.schema.store_rights); masters accept neither."""
SERVER_KINDS = frozenset({"host", "masterd", "hostd", "etcd"})
"""Kinds whose programs accept connections. Certificates of the other kinds are for clients only."""
COMMON_NAME_CHARS_MAX = 64  # RFC 5280


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """What a certificate names: a program or a person."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Subject:
        """The identity in `kind:name`. Raises Invalid."""
        kind, separator, name = text.partition(":")
        if not separator or kind not in KINDS:
            raise Invalid(f"{text!r} is not KIND:NAME, such as masterd:pc1; the kinds are {', '.join(KINDS)}")
        check_name(kind, name)
        if len(text) > COMMON_NAME_CHARS_MAX:
            raise Invalid(f"{text!r} has more than {COMMON_NAME_CHARS_MAX} characters, so no certificate can name it")
        return cls(kind, name)


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Whom the verified certificate of a connection names.

    kind: None if the subject is not `CN=<kind>:<name>` with a known kind; `name` is then the common name as it is.
    serial: the serial number in hexadecimal digits.
    """

    kind: str | None
    name: str
    serial: str

    def __str__(self) -> str:
        return self.name if self.kind is None else f"{self.kind}:{self.name}"


def peer_identity_of(certificate: Mapping[str, Any] | None) -> PeerIdentity | None:
    """Whom a certificate names, as `ssl.SSLSocket.getpeercert` describes it. None if the peer has no certificate."""
    if not certificate:
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    serial = str(certificate.get("serialNumber", ""))
    if len(names) != 1:  # which of several names is meant would be a guess
        return PeerIdentity(None, "", serial)
    try:
        identity = Subject.parse(str(names[0]))
    except Invalid:
        return PeerIdentity(None, str(names[0]), serial)
    return PeerIdentity(identity.kind, identity.name, serial)
