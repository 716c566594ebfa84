"""Finds out who sent a request: by its bearer token, the cookie of a browser session, or its client certificate.

A request with a token is its bearer's, whatever the cookie and the verified certificate of its connection say, and one
with a cookie is that of its session: a token or cookie that is not valid is never replaced by what comes after it.
A request that a masterd forwards is that of its original principal. Its role and limits are those of its grant here, so
a grant that was revoked meanwhile no longer counts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from aiohttp import hdrs, web

from masterd.api.access.sessions.cookies import SessionCookie
from masterd.roles.principal import PRINCIPAL_HEADER, Kind, Principal, parse_header
from nodestore.cluster.grants import certificate_grant_id
from nodestore.pki.identity import PeerIdentity
from nodestore.schema.models import BrowserSession, Grant
from nodestore.support.tokens import Token, is_secret, parse_token

_BEARER = "bearer "
_KNOWN_MAX = 1_024
_STRANGER = Principal(Kind.STRANGER)


PeerIdentityOf = Callable[[web.Request], PeerIdentity | None]
"""Returns whom the verified client certificate of a request's connection names; None if there is none."""


def no_certificate(_: web.Request) -> PeerIdentity | None:
    """For a server without TLS."""
    return None


class KnownGrants(Protocol):
    """The grants as this masterd knows them."""

    @property
    def items(self) -> Mapping[str, Grant]: ...

    @property
    def is_known(self) -> bool:
        """Whether they were read once."""


class KnownSessions(Protocol):
    """The browser sessions as this masterd knows them."""

    def find(self, cookie: Token) -> BrowserSession | None:
        """The valid session of this cookie."""

    def by_id(self, session_id: str) -> BrowserSession | None:
        """The valid session with this id."""


class Credentials:
    """Identifies the senders of requests. `forget` must be called when a grant changes.

    clock: the time, as seconds since 1970, at which grants end.
    """

    def __init__(
        self,
        grants: KnownGrants,
        sessions: KnownSessions,
        cookie: SessionCookie,
        peer_identity: PeerIdentityOf = no_certificate,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._grants, self._sessions, self._cookie = grants, sessions, cookie
        self._peer_identity, self._clock = peer_identity, clock
        self._known: dict[tuple[bytes, str], Principal] = {}
        """By the hash of a valid token and the address that sent it: its bearer."""

    def forget(self) -> None:
        """Forget which tokens were valid."""
        self._known.clear()

    @property
    def are_known(self) -> bool:
        """Whether the grants were read once. Before that, no token is known here to be invalid."""
        return self._grants.is_known

    def identify(self, request: web.Request) -> Principal | None:
        """Who sent this request; a stranger if it has no credential; None if its credential is not valid."""
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is not None:
            return self._bearer(header, request.remote or "")
        if self._cookie.is_in(request.headers):
            return self._of_session(request)
        peer = self._peer_identity(request)
        if peer is None:
            return _STRANGER
        address = request.remote or ""
        if peer.kind == "masterd":
            forwarded = request.headers.get(PRINCIPAL_HEADER)
            own = Principal(Kind.MASTER, peer.name, address=address)
            return own if forwarded is None else self._original(forwarded)
        if peer.kind == "noded":
            return Principal(Kind.NODED, peer.name, address=address)
        return self._holder(peer.name, address) if peer.kind == "operator" else None

    def is_valid(self, principal: Principal) -> bool:
        """Whether the grant of this principal still exists, with the role and the limits that it had."""
        if not principal.grant_id:
            return True
        if principal.session:
            session = self._sessions.by_id(principal.session)
            if session is None or session.grant != principal.grant_id:
                return False
        granted = self._granted(principal.grant_id, principal.address)
        return granted is not None and replace(granted, session=principal.session) == principal

    def is_by_cookie(self, request: web.Request) -> bool:
        """Whether the cookie of a browser session decides who sent this request. It may be invalid."""
        return hdrs.AUTHORIZATION not in request.headers and self._cookie.is_in(request.headers)

    def session_of(self, request: web.Request) -> tuple[str, BrowserSession] | None:
        """The id and the session of the request's cookie; None if it has none that is valid."""
        token = self._cookie.read(request.headers)
        session = None if token is None else self._sessions.find(token)
        return None if token is None or session is None else (token.id, session)

    def _of_session(self, request: web.Request) -> Principal | None:
        found = self.session_of(request)
        return None if found is None else self.in_session(*found, request.remote or "")

    def in_session(self, session_id: str, session: BrowserSession, address: str) -> Principal | None:
        """Who sends requests in this session; None if its grant is no longer valid."""
        principal = self._granted(session.grant, address)
        return None if principal is None else replace(principal, session=session_id)

    def by_token(self, text: str, address: str) -> Principal | None:
        """The bearer of this token; None if it is not valid."""
        return self._bearer(f"{_BEARER}{text}", address)

    def _bearer(self, header: str, address: str) -> Principal | None:
        digest = hashlib.sha256(header.encode("utf-8", "surrogateescape")).digest()
        known = self._known.get((digest, address))
        if known is not None:
            return known if known.ends is None or self._clock() < known.ends else None
        is_bearer = header[: len(_BEARER)].lower() == _BEARER
        token = parse_token(header[len(_BEARER) :].strip()) if is_bearer else None
        grant = None if token is None else self._grants.items.get(token.id)
        if token is None or not is_secret("" if grant is None else grant.hash, token.secret):
            return None
        principal = self._granted(token.id, address)
        if principal is not None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[digest, address] = principal
        return principal

    def _holder(self, name: str, address: str) -> Principal:
        """The holder of an operator's certificate, without a role if there is no grant."""
        return self._granted(certificate_grant_id(name), address) or Principal(Kind.OPERATOR, name, address=address)

    def _granted(self, grant_id: str, address: str) -> Principal | None:
        grant = self._grants.items.get(grant_id)
        if grant is None or (grant.ends is not None and self._clock() >= grant.ends):
            return None
        kind = Kind.TOKEN if grant.kind == "token" else Kind.OPERATOR
        return Principal(kind, grant.name, grant.role, grant_id, grant.commands, grant.groups, grant.ends, address)

    def _original(self, header: str) -> Principal | None:
        """The principal of a forwarded request. Only people's requests are forwarded."""
        said = parse_header(header)
        if said is None:
            return None
        if said.kind is Kind.TOKEN:
            return self._granted(said.grant_id, said.address)
        if said.kind is Kind.OPERATOR:
            return self._holder(said.name, said.address)
        return _STRANGER
