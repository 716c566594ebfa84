"""Tokens for joining, made with the maintenance certificate of a signer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hostd.pc.host_file import require_host_file
from hostd.pc.layout import Layout
from hostd.signing.client import authority_hash
from nodestore.cluster.join_tokens import JoinTokens
from nodestore.etcd.session import Etcd
from nodestore.pki.authority_files import read_file
from nodestore.pki.signing import certificates_in, is_issued_by
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
    wanted = await asyncio.to_thread(_hash_of_authority, layout)
    token = new_token()
    made = await JoinTokens(etcd, keys).create(
        TokenHash(token.id, hash_of(token.secret)), kind, uses=uses, lasts_s=lasts_s, actor=actor
    )
    return NewJoinToken(str(JoinTokenText(wanted, token)), token.id, kind, made.uses, made.ends)


def _hash_of_authority(layout: Layout) -> str:
    """The hash of the authority that issued the certificate of this signer. There are two while one is replaced."""
    files = layout.tls_files("hostd", require_host_file(layout.host_file).host)
    assert files.ca is not None
    assert files.cert is not None
    own, authorities = read_file(files.cert), certificates_in(read_file(files.ca))
    issuer = next((item for item in authorities if is_issued_by(own, item)), authorities[0])
    return authority_hash(issuer.decode("ascii"))
