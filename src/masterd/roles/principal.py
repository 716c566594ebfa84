"""Who sent a request, and how that is passed on to the leader with a forwarded request. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from nodestore.errors import Garbage
from nodestore.schema.limits import ACTOR_BYTES_MAX, shortened
from nodestore.schema.models import Role
from nodestore.support.jsonio import loads

PRINCIPAL_HEADER = "Nodectl-Principal"
"""In a forwarded request: the principal of the original one. It counts only from a masterd's certificate."""
_HEADER_CHARS_MAX = 4096


class Kind(Enum):
    """What kind of principal sent a request."""

    ANYONE = "anyone"
    """Access control is off, so the request needed no credential and named its author itself."""
    STRANGER = "stranger"
    """Access control is on, and the request has no credential."""
    TOKEN = "token"  # noqa: S105 - the name of a kind
    OPERATOR = "operator"
    MASTER = "master"
    NODED = "noded"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request, and what limits its credential has.

    role: None if people have given this principal none. grant_id: the grant that gives the role. commands, groups: see
    `Grant`. ends: when the grant ends, as seconds since 1970. address: the IP address that the request came from.
    session: the id of the browser session whose cookie the request has; empty if it has none.
    """

    kind: Kind
    name: str = ""
    role: Role | None = None
    grant_id: str = ""
    commands: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    ends: float | None = None
    address: str = ""
    session: str = ""

    def __str__(self) -> str:
        """The name by which the journal and the log show it, such as `token:anna`."""
        return f"{self.kind.value}:{self.name}" if self.name else self.kind.value

    @property
    def is_limited(self) -> bool:
        """Whether it may send only some commands, or change only some nodes."""
        return bool(self.commands or self.groups)

    @property
    def sees_secrets(self) -> bool:
        """Whether it may see secrets: it may change the configuration, is a daemon, or access control is off."""
        if self.kind in (Kind.ANYONE, Kind.MASTER, Kind.NODED):
            return True
        return self.role in ("maintainer", "admin") and not self.is_limited

    def may_name(self, command: str) -> bool:
        """Whether the patterns of its grant allow a command of this name."""
        return not self.commands or any(fnmatchcase(command, pattern) for pattern in self.commands)

    def author(self, claimed: str) -> str:
        """The actor for the journal. claimed: the author that the request names. It counts only without access
        control, and from a masterd, which names the author of the request that it carries out."""
        return claimed if self.kind in (Kind.ANYONE, Kind.MASTER) else shortened(str(self), ACTOR_BYTES_MAX)

    def replaced(self, claimed: str) -> str:
        """The author that the request names, if `author` replaces it; else empty. It is kept, but not verified."""
        return "" if self.author(claimed) == claimed else claimed

    def header(self) -> str:
        """The value of PRINCIPAL_HEADER, in ASCII."""
        fields: dict[str, Any] = {"kind": self.kind.value, "name": self.name, "address": self.address}
        if self.grant_id:
            fields["grant"] = self.grant_id
        return json.dumps(fields, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ForwardedPrincipal:
    """What PRINCIPAL_HEADER says of the principal of the original request."""

    kind: Kind
    name: str
    grant_id: str
    address: str


def parse_header(text: str) -> ForwardedPrincipal | None:
    """What the header says; None if it cannot be read."""
    try:
        fields: Any = loads(text.encode()[:_HEADER_CHARS_MAX], PRINCIPAL_HEADER)
        if not isinstance(fields, Mapping):
            return None
        kind = Kind(fields.get("kind"))
    except (Garbage, ValueError):
        return None
    texts = [fields.get(name, "") for name in ("name", "grant", "address")]
    if not all(isinstance(item, str) for item in texts):
        return None
    return ForwardedPrincipal(kind, *texts)


ANYONE = Principal(Kind.ANYONE)
