"""Gives roles to the bearers of tokens and the holders of certificates, and switches access control on and off.

masterd and nodectl share this module: before anybody has a role, an operator with access to etcd creates the first
token. Every change is one key, written by compare-and-swap, so it needs no leader: a token can be revoked at any time.

A token is `NCT1.<id>.<secret>`. The secret has 256 random bits, so its SHA-256 in etcd reveals nothing of it and needs
no salt. It is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from typing import NamedTuple

from nodestore.cluster.settled_writes import swap
from nodestore.errors import Conflict, Garbage, Invalid
from nodestore.etcd.session import Etcd, cmp_mod, op_delete, op_put
from nodestore.schema.keys import Keys, check_name
from nodestore.schema.limits import ACTOR_BYTES_MAX, check_text
from nodestore.schema.models import AccessControl, Grant, Role, decode

TOKEN_PREFIX = "NCT1"
GRANTS_MAX = 1_000
PATTERNS_MAX = 32
ENDS_MAX_S = 10 * 365 * 86_400.0
_SECRET_BYTES, _ID_BYTES = 32, 8
_TOKEN = re.compile(rf"{TOKEN_PREFIX}\.([0-9a-f]{{16}})\.([A-Za-z0-9_-]{{43}})", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9_.*?:/-]{1,128}", re.ASCII)
_ATTEMPTS = 5


class Token(NamedTuple):
    """The two parts of a token."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"{TOKEN_PREFIX}.{self.id}.{self.secret}"


class NewToken(NamedTuple):
    """A grant for a token, and the token. `token` is None for a grant to a certificate."""

    id: str
    grant: Grant
    token: str | None


def parse_token(text: str) -> Token | None:
    """The parts of a token; None if `text` is none."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else Token(found[1], found[2])


_NO_HASH = hashlib.sha256(b"no token has this secret").hexdigest()


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def is_secret_of(grant: Grant | None, secret: str) -> bool:
    """Whether `grant` is for the token with this secret. Takes as long without a grant."""
    expected = grant.hash if grant is not None and grant.kind == "token" else ""
    matches = hmac.compare_digest(hash_of(secret), expected or _NO_HASH)
    return matches and bool(expected)


def certificate_grant_id(name: str) -> str:
    """The id of the grant to the holder of the certificate `CN=operator:<name>`. No token has such an id."""
    return f"operator:{name}"


def checked_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """The patterns of names of commands, without doubles. Invalid if one cannot be such a pattern."""
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise Invalid(f"{pattern!r} is not the name of a command or a pattern such as scene.*")
    if len(patterns) > PATTERNS_MAX:
        raise Invalid(f"a grant names at most {PATTERNS_MAX} patterns of commands")
    return tuple(dict.fromkeys(patterns))


class Grants:
    """Reads and changes the grants and the access control of one cluster."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys

    async def create(
        self,
        name: str,
        role: Role,
        *,
        actor: str,
        lasts_s: float | None = None,
        commands: Sequence[str] = (),
        groups: Sequence[str] = (),
        certificate: bool = False,
    ) -> NewToken:
        """Create a token, or give a role to the certificate `CN=operator:<name>`, whose earlier grant it replaces.

        lasts_s: after how many seconds the grant ends; None: never. Raises Invalid, Conflict if there are too many
        grants, and OutcomeUnknown if etcd does not answer. A token whose outcome is unknown is of no use to anyone.
        """
        check_name("token", name)
        check_text(actor, "actor", ACTOR_BYTES_MAX)
        for group in groups:
            check_name("group", group)
        if len(groups) > PATTERNS_MAX:
            raise Invalid(f"a grant names at most {PATTERNS_MAX} groups")
        if lasts_s is not None and not 0 < lasts_s <= ENDS_MAX_S:
            raise Invalid("a grant lasts for more than no time, and for at most ten years")
        if len((await self._etcd.range(self._keys.grants, keys_only=True, limit=GRANTS_MAX)).kvs) >= GRANTS_MAX:
            raise Conflict(f"there are {GRANTS_MAX} grants already: revoke some (nodectl token list)")
        now = time.time()
        token = None if certificate else Token(secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES))
        grant = Grant(
            name=name, kind="certificate" if token is None else "token", role=role, actor=actor, time=now,
            commands=checked_patterns(commands), groups=tuple(dict.fromkeys(groups)),
            hash="" if token is None else hash_of(token.secret), ends=None if lasts_s is None else now + lasts_s,
        )  # fmt: skip
        grant_id = certificate_grant_id(name) if token is None else token.id
        await self._put(self._keys.grant(grant_id), grant.encode(), replaces=token is None)
        return NewToken(grant_id, grant, None if token is None else str(token))

    async def list(self) -> dict[str, Grant]:
        """All grants by id, without those that cannot be read."""
        found: dict[str, Grant] = {}
        for kv in (await self._etcd.range(self._keys.grants)).kvs:
            try:
                found[kv.key.removeprefix(self._keys.grants)] = decode(Grant, kv.value, kv.key)
            except Garbage:
                continue
        return found

    async def revoke(self, grant_id: str) -> bool:
        """Delete a grant; return False if there is none."""
        key = self._keys.grant(grant_id)
        for _ in range(_ATTEMPTS):
            found = await self._etcd.get(key)
            if found is None:
                return False
            if await swap(self._etcd, [cmp_mod(key, found.mod_revision)], [op_delete(key)], key, None):
                return True
        raise Conflict("other programs changed this grant at the same time: try again")

    async def access_control(self) -> AccessControl | None:
        """Whether access control is on, and since when; None if it never was. Garbage if the key is unreadable."""
        found = await self._etcd.get(self._keys.access_control)
        return None if found is None else decode(AccessControl, found.value, found.key)

    async def set_access_control(self, enabled: bool, actor: str) -> AccessControl:
        """Switch access control on or off. Raises the same errors as `create`."""
        control = AccessControl(
            enabled=enabled, actor=check_text(actor, "actor", ACTOR_BYTES_MAX), time=time.time()
        )  # fmt: skip
        await self._put(self._keys.access_control, control.encode(), replaces=True)
        return control

    async def _put(self, key: str, value: bytes, *, replaces: bool) -> None:
        for _ in range(_ATTEMPTS):
            found = await self._etcd.get(key) if replaces else None
            unchanged = cmp_mod(key, 0 if found is None else found.mod_revision)
            if await swap(self._etcd, [unchanged], [op_put(key, value)], key, value):
                return
        raise Conflict("other programs changed it at the same time: try again")
