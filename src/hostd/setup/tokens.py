"""Tokens for joining, made with the maintenance certificate of a signer."""

from __future__ import annotations

from dataclasses import dataclass

from hostd.pc.layout import Layout
from hostd.signing.client import authority_hash
from nodestore.cluster.join_tokens import JoinTokens
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd
from nodestore.schema.access_models import JoinKind
from nodestore.schema.keys import Keys
from nodestore.support.tokens import JoinTokenText, TokenHash, hash_of, new_token

USES, LASTS_S = 8, 86_400.0


@dataclass(frozen=True, slots=True)
class NewJoinToken:
    """A token, to be shown once. ends: seconds since 1970."""

    text: str
    id: str
    kind: JoinKind
    uses: int
    ends: float


async def create_join_token(
    layout: Layout, etcd: Etcd, keys: Keys, *, actor: str, kind: JoinKind = "host", uses: int = USES,
    lasts_s: float = LASTS_S,
) -> NewJoinToken:  # fmt: skip
    """Make a token for PCs that are to join."""
    authority = layout.tls("hostd") / "ca.crt"
    try:
        wanted = authority_hash(authority.read_text("ascii"))
    except OSError as error:
        raise NodectlError(f"cannot read {authority}: {error.strerror or error}") from None
    token = new_token()
    made = await JoinTokens(etcd, keys).create(
        TokenHash(token.id, hash_of(token.secret)), kind, uses=uses, lasts_s=lasts_s, actor=actor
    )
    return NewJoinToken(str(JoinTokenText(wanted, token)), token.id, kind, made.uses, made.ends)
