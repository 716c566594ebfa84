"""Bearer tokens: `NCT1.<id>.<secret>`, and join tokens: `NCT1.<hash of the authority>.<id>.<secret>`.

Cookies of browser sessions and their one-time codes have the form of bearer tokens, with other prefixes.

The secret has 256 random bits. So its SHA-256, which etcd holds, reveals nothing of it and needs no salt. The secret is
shown once, when the token is made.

A PC that joins has no certificate of the cluster's authority yet. It verifies the authority that it is shown by the
hash in the token: the SHA-256 of the authority's certificate in DER, in hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from nodestore.errors import Invalid

TOKEN_PREFIX = "NCT1"  # noqa: S105 - every token begins with it
SESSION_PREFIX = "NCS1"
"""In place of TOKEN_PREFIX in the cookie of a browser session."""
CODE_PREFIX = "NCC1"
"""In place of TOKEN_PREFIX in a code that takes a browser session to another master."""
_PREFIXES = (TOKEN_PREFIX, SESSION_PREFIX, CODE_PREFIX)
_SECRET_BYTES, _ID_BYTES = 32, 8
_TOKEN = re.compile(r"([A-Z]{3}1)\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})", re.ASCII)
_ID, _HASH = re.compile(r"[0-9a-f]{16}", re.ASCII), re.compile(r"[0-9a-f]{64}", re.ASCII)
_JOIN = re.compile(rf"{TOKEN_PREFIX}\.([0-9a-f]{{64}})\.([0-9a-f]{{16}})\.([A-Za-z0-9_-]{{43}})", re.ASCII)
_SECRET = re.compile(
    rf"((?:{'|'.join(_PREFIXES)})\.(?:[0-9a-f]{{64}}\.)?[0-9a-f]{{16}}\.)[A-Za-z0-9_-]+", re.ASCII
)  # fmt: skip
_NO_HASH = hashlib.sha256(b"no token has this secret").hexdigest()


class Token(NamedTuple):
    """The parts of a token."""

    id: str
    secret: str
    prefix: str = TOKEN_PREFIX

    def __str__(self) -> str:
        return f"{self.prefix}.{self.id}.{self.secret}"


class JoinTokenText(NamedTuple):
    """A join token as a person copies it. authority_hash: of the authority that signs certificates of the cluster."""

    authority_hash: str
    token: Token

    def __str__(self) -> str:
        return f"{TOKEN_PREFIX}.{self.authority_hash}.{self.token.id}.{self.token.secret}"


class TokenHash(NamedTuple):
    """What may be known of a token by everybody: its id, and the hash of its secret."""

    id: str
    hash: str


def new_token(prefix: str = TOKEN_PREFIX) -> Token:
    return Token(secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES), prefix)


def checked_token_hash(token_id: str, digest: str) -> TokenHash:
    """The id and the hash of a token that a caller has made. Raises Invalid if they cannot be such."""
    if not _ID.fullmatch(token_id) or not _HASH.fullmatch(digest):
        raise Invalid("id: expected 16, and hash: 64 hexadecimal digits in lower case (SHA-256 of the secret)")
    return TokenHash(token_id, digest)


def parse_token(text: str, prefix: str = TOKEN_PREFIX) -> Token | None:
    """The parts of a token with this prefix; None if `text` is none."""
    found = _TOKEN.fullmatch(text)
    return None if found is None or found[1] != prefix else Token(found[2], found[3], prefix)


def parse_join_token(text: str) -> JoinTokenText | None:
    """The parts of a join token; None if `text` is none."""
    found = _JOIN.fullmatch(text)
    return None if found is None else JoinTokenText(found[1], Token(found[2], found[3]))


def hide_token_secrets(text: str) -> str:
    """`text`, with `***` in place of the secret of each token, cookie and code in it."""
    return _SECRET.sub(r"\1***", text)


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def is_secret(expected: str, secret: str) -> bool:
    """Whether `expected` is the hash of this secret. It takes as long if `expected` is empty, for a missing token."""
    return hmac.compare_digest(hash_of(secret), expected or _NO_HASH) and bool(expected)
