"""Join tokens: who has one may become a node, a host or an operator of the cluster, a limited number of times.

Whoever signs certificates uses one up *before* it signs. A use names who it is for: `by`, such as the identity with the
hash of the public key. These are the places where the signer or the joiner can die:

1. read the token -> (dies) -> nothing happened.
2. one transaction adds the use, and compares that the token is unchanged since it was read -> (dies) -> the joiner asks
   again, perhaps at another signer, with the same `by`: the use is found, and none is added.
3. sign -> (dies) -> as in 2. A certificate that was signed and never arrived is on record at the signer.
4. answer -> (the answer is lost) -> as in 2.

A late copy of the transaction finds a changed token, and fails for ever. Of two joiners that use the last use, one
transaction fails; that joiner reads the token again and is refused. A token that was revoked meanwhile is absent.

So `by` must be the same in a repeat, and another one for each certificate: a joiner keeps its key pair until it joined.

A signer must also refuse the name of an identity that another key has: a token does not entitle to an existing name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import get_args

from nodestore.cluster.settled_writes import delete_settled, swap
from nodestore.errors import Conflict, Denied, Invalid
from nodestore.etcd.session import KV, Etcd, cmp_mod, op_put
from nodestore.schema.access_models import JoinKind, JoinToken, JoinUse
from nodestore.schema.api_types import JoinTokenView
from nodestore.schema.keys import Keys, check_name
from nodestore.schema.limits import ACTOR_BYTES_MAX, TEXT_BYTES_MAX, check_text, shortened
from nodestore.schema.models import decode_or_none
from nodestore.support.tokens import Token, TokenHash, is_secret

JOIN_KINDS: tuple[JoinKind, ...] = get_args(JoinKind)
JOIN_TOKENS_MAX = 1_000
USES_MAX = 100
LASTS_MAX_S = 365 * 86_400.0
_KEPT_S = 30 * 86_400.0
"""How long a token is kept after its end, for the list."""
_ADDRESS_BYTES_MAX = 64
_ATTEMPTS = USES_MAX + 5
"""Each attempt that fails is a use by another joiner, unless the token was revoked."""


def join_token_view(token_id: str, token: JoinToken) -> JoinTokenView:
    """What the API shows of a join token: everything but the hash of its secret."""
    return {
        "id": token_id, "kind": token.kind, "name": token.name, "uses": token.uses, "uses_left": token.uses_left,
        "used": [{"by": use.by, "time": use.time, "address": use.address} for use in token.used],
        "actor": token.actor, "time": token.time, "ends": token.ends,
    }  # fmt: skip


class JoinTokens:
    """Creates, lists, uses and revokes the join tokens of one cluster. clock: the time, in seconds since 1970."""

    def __init__(self, etcd: Etcd, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._etcd, self._keys, self._clock = etcd, keys, clock

    async def create(
        self, made: TokenHash, kind: JoinKind, *, uses: int, lasts_s: float, actor: str, name: str = ""
    ) -> JoinToken:
        """Record a token that the caller has made (`nodestore.support.tokens.new_token`). A repeat changes nothing.

        name: the only name for which it may be used; empty: any. A token of kind operator needs one, because its bearer
        would otherwise choose the name of a person who has a role already. Raises Invalid; Conflict if the id is taken
        or there are too many tokens; OutcomeUnknown if etcd does not answer.
        """
        token = JoinToken(
            kind=kind, name=name, hash=made.hash, uses=uses, actor=actor, time=self._clock(),
            ends=self._clock() + _checked(kind, name, uses, lasts_s, actor),
        )  # fmt: skip
        await self._make_room()
        key, value = self._keys.join(made.id), token.encode()
        if await swap(self._etcd, [cmp_mod(key, 0)], [op_put(key, value)], key, value):
            return token
        found = decode_or_none(JoinToken, await self._etcd.get(key))
        if found is None or found.hash != made.hash:
            raise Conflict(f"the id {made.id} is taken by another join token: make a new one")
        return found

    async def list(self) -> dict[str, JoinToken]:
        """All join tokens by id, without those that cannot be read."""
        found = {self._id(kv): decode_or_none(JoinToken, kv) for kv in await self._kvs()}
        return {token_id: token for token_id, token in found.items() if token is not None}

    async def revoke(self, token_id: str) -> bool:
        """Delete a token; return False if there is none. Certificates that exist stay valid."""
        return await delete_settled(self._etcd, self._keys.join(token_id), "this join token")

    async def use(self, token: Token, *, by: str, name: str, address: str = "") -> JoinToken:
        """Count one use, unless `by` has used the token before. Return the token after that.

        by: who uses it, the same text in a repeat. name: the name for which it is used. Raises Invalid; Denied, with a
        reason if the secret is right; OutcomeUnknown or Unavailable if etcd does not answer: then try again.
        """
        check_text(by, "by", TEXT_BYTES_MAX)
        key = self._keys.join(token.id)
        for _ in range(_ATTEMPTS):
            kv = await self._etcd.get(key)
            found = self._usable(decode_or_none(JoinToken, kv), token, by, name)
            if kv is None or found.is_used_by(by):
                return found
            use = JoinUse(by=by, time=self._clock(), address=shortened(address, _ADDRESS_BYTES_MAX))
            used = found.model_copy(update={"used": (*found.used, use)})
            value = used.encode()
            if await swap(self._etcd, [cmp_mod(key, kv.mod_revision)], [op_put(key, value)], key, value):
                return used
        raise Conflict("other programs changed this join token at the same time: try again")

    def _usable(self, found: JoinToken | None, token: Token, by: str, name: str) -> JoinToken:
        """`found`, if it may be used. Raises Denied. Without the right secret, nothing shows whether a token exists."""
        if found is None or not is_secret(found.hash, token.secret):
            raise Denied("the join token is not valid: it is unknown or was revoked")
        if found.name and found.name != name:
            raise Denied(f"the join token {token.id} is for the name {found.name!r} only")
        if self._clock() >= found.ends:
            raise Denied(f"the join token {token.id} has ended: make a new one")
        if not found.uses_left and not found.is_used_by(by):
            raise Denied(f"the join token {token.id} was used {found.uses} times, which is its limit: make a new one")
        return found

    async def _make_room(self) -> None:
        """Delete the tokens that ended long ago. Raises Conflict if there are still too many."""
        kvs = await self._kvs()
        old = [kv for kv in kvs if self._ended_long_ago(decode_or_none(JoinToken, kv))]
        for kv in old:
            await delete_settled(self._etcd, kv.key, "an old join token")
        if len(kvs) - len(old) >= JOIN_TOKENS_MAX:
            raise Conflict(f"there are {JOIN_TOKENS_MAX} join tokens already: revoke some")

    def _ended_long_ago(self, token: JoinToken | None) -> bool:
        return token is not None and self._clock() >= token.ends + _KEPT_S

    async def _kvs(self) -> tuple[KV, ...]:
        return tuple((await self._etcd.range(self._keys.joins)).kvs)

    def _id(self, kv: KV) -> str:
        return kv.key.removeprefix(self._keys.joins)


def _checked(kind: str, name: str, uses: int, lasts_s: float, actor: str) -> float:
    """`lasts_s`. Raises Invalid if a value cannot be one of a join token."""
    if kind not in JOIN_KINDS:
        raise Invalid(f"kind: {kind!r} is not one of {', '.join(JOIN_KINDS)}")
    if name:
        check_name(kind, name)
    elif kind == "operator":
        raise Invalid("a join token of the kind operator needs the name of the person")
    if not 1 <= uses <= USES_MAX:
        raise Invalid(f"uses: {uses} is not between 1 and {USES_MAX}")
    if not 0 < lasts_s <= LASTS_MAX_S:
        raise Invalid("a join token lasts for more than no time, and for at most a year")
    check_text(actor, "actor", ACTOR_BYTES_MAX)
    return lasts_s
