"""Gives roles to the bearers of tokens and the holders of certificates, and switches access control on and off.

masterd and nodectl share this module: before any person has a role, an operator with access to etcd creates the first
token. Every change is one key, written by compare-and-swap, so it needs no leader: a token can be revoked at any time.

Of a token, etcd holds the hash of its secret (nodestore.support.tokens).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from nodestore.cluster.settled_writes import delete_settled, put_settled, swap
from nodestore.errors import Conflict, Invalid
from nodestore.etcd.session import Etcd, cmp_exists, cmp_mod, op_put
from nodestore.schema.api_types import TokenView
from nodestore.schema.keys import Keys, check_name
from nodestore.schema.limits import ACTOR_BYTES_MAX, check_text
from nodestore.schema.models import AccessControl, CredentialUse, Grant, Role, decode, decode_or_none
from nodestore.support.tokens import TokenHash, hash_of, new_token

CERTIFICATE_PREFIX = "operator:"
"""How the ids of grants to certificates begin."""
GRANTS_MAX = 1_000
PATTERNS_MAX = 32
ENDS_MAX_S = 10 * 365 * 86_400.0
_CLOCKS_S = 60.0
"""How much the clocks of two PCs may differ without being wrong."""
_PATTERN = re.compile(r"[A-Za-z0-9_.*?:/-]{1,128}", re.ASCII)


class NewToken(NamedTuple):
    """A grant, and its token. `token` is None for a grant to a certificate, and if the caller has made the token."""

    id: str
    grant: Grant
    token: str | None


def certificate_grant_id(name: str) -> str:
    """The id of the grant to the holder of the certificate `CN=operator:<name>`. No token has such an id."""
    return CERTIFICATE_PREFIX + name


def checked_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """The patterns of names of commands, without doubles. Invalid if one cannot be such a pattern."""
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise Invalid(f"{pattern!r} is not the name of a command or a pattern such as scene.*")
    if len(patterns) > PATTERNS_MAX:
        raise Invalid(f"a grant names at most {PATTERNS_MAX} patterns of commands")
    return tuple(dict.fromkeys(patterns))


def grant_view(grant_id: str, grant: Grant, use: CredentialUse | None = None) -> TokenView:
    """What the API shows of a grant: everything but the hash of its secret. use: the last use that is known."""
    return {
        "last_used": None if use is None else use.time, "last_address": "" if use is None else use.address,
        "id": grant_id, "name": grant.name, "kind": grant.kind, "role": grant.role, "commands": list(grant.commands),
        "groups": list(grant.groups), "actor": grant.actor, "time": grant.time, "ends": grant.ends,
    }  # fmt: skip


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
        made: TokenHash | None = None,
    ) -> NewToken:
        """Create a token, or give a role to the certificate `CN=operator:<name>`, whose earlier grant it replaces.

        lasts_s: after how many seconds the grant ends; None: never. made: a token that the caller has made; with it a
        repeat changes nothing, and the answer holds no token. Raises Invalid, Conflict if there are too many grants or
        the id is taken, and OutcomeUnknown if etcd does not answer.
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
        token = None if certificate or made is not None else new_token()
        made = TokenHash(token.id, hash_of(token.secret)) if token is not None else made
        grant = Grant(
            name=name, kind="certificate" if certificate else "token", role=role, actor=actor, time=now,
            commands=checked_patterns(commands), groups=tuple(dict.fromkeys(groups)),
            hash="" if certificate or made is None else made.hash, ends=None if lasts_s is None else now + lasts_s,
        )  # fmt: skip
        if certificate or made is None:
            await put_settled(self._etcd, self._keys.grant(certificate_grant_id(name)), grant.encode(), "it")
            return NewToken(certificate_grant_id(name), grant, None)
        return NewToken(made.id, await self._add(made.id, grant), None if token is None else str(token))

    async def _add(self, grant_id: str, grant: Grant) -> Grant:
        """Write a new grant; return the one that is there. Raises Conflict if that is of another token."""
        key, value = self._keys.grant(grant_id), grant.encode()
        if await swap(self._etcd, [cmp_mod(key, 0)], [op_put(key, value)], key, value):
            return grant
        found = decode_or_none(Grant, await self._etcd.get(key))
        if found is None or found.hash != grant.hash:
            raise Conflict(f"the id {grant_id} is taken by another token: make a new one")
        return found

    async def list(self) -> dict[str, Grant]:
        """All grants by id, without those that cannot be read."""
        kvs = (await self._etcd.range(self._keys.grants)).kvs
        found = {kv.key.removeprefix(self._keys.grants): decode_or_none(Grant, kv) for kv in kvs}
        return {grant_id: grant for grant_id, grant in found.items() if grant is not None}

    async def revoke(self, grant_id: str) -> bool:
        """Delete a grant; return False if there is none."""
        deleted = await delete_settled(self._etcd, self._keys.grant(grant_id), "this grant")
        # If this does not happen, the next grant with this id, of the same certificate, shows the old use.
        await delete_settled(self._etcd, self._keys.use(grant_id), "its last use")
        return deleted

    async def uses(self) -> dict[str, CredentialUse]:
        """The last use of each grant, by id, without those that cannot be read."""
        kvs = (await self._etcd.range(self._keys.uses)).kvs
        found = {kv.key.removeprefix(self._keys.uses): decode_or_none(CredentialUse, kv) for kv in kvs}
        return {grant_id: use for grant_id, use in found.items() if use is not None}

    async def note_use(self, grant_id: str, use: CredentialUse, now: float) -> bool:
        """Write a use, unless a newer one is written or the grant was revoked. Return whether it was written.

        now: a written use of a later time is that of a clock that was wrong. A loser of two writes is not repeated.
        """
        key = self._keys.use(grant_id)
        found = await self._etcd.get(key)
        written = decode_or_none(CredentialUse, found)
        if written is not None and use.time <= written.time <= now + _CLOCKS_S:
            return False
        unchanged = cmp_mod(key, 0 if found is None else found.mod_revision)
        exists = cmp_exists(self._keys.grant(grant_id))
        return (await self._etcd.txn([unchanged, exists], [op_put(key, use.encode())])).succeeded

    async def access_control(self) -> AccessControl | None:
        """Whether access control is on, and since when; None if it never was. Garbage if the key is unreadable."""
        found = await self._etcd.get(self._keys.access_control)
        return None if found is None else decode(AccessControl, found.value, found.key)

    async def set_access_control(self, enabled: bool, actor: str) -> AccessControl:
        """Switch access control on or off. Raises the same errors as `create`."""
        control = AccessControl(
            enabled=enabled, actor=check_text(actor, "actor", ACTOR_BYTES_MAX), time=time.time()
        )  # fmt: skip
        await put_settled(self._etcd, self._keys.access_control, control.encode(), "it")
        return control
