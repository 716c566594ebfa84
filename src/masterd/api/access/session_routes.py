"""The routes of browser sessions: login, logout, and the code that takes a session to another master.

Only pages of this masterd itself may use them, over TLS. Programs send their token with each request instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

from masterd.api.access.audit import AuditLog
from masterd.api.access.browser_rules import BrowserRules
from masterd.api.access.credentials import Credentials
from masterd.api.access.rates import Rates
from masterd.api.access.sessions.browser_sessions import CODE_S, BrowserSessions
from masterd.api.access.sessions.cookies import SessionCookie
from masterd.api.access.slow_refusals import SlowRefusals
from masterd.api.body_reader import read_body
from masterd.api.request_bodies import text_field
from masterd.replication.cluster_view import ClusterView
from masterd.roles.principal import Kind, Principal
from masterd.roles.request_principal import principal_of
from nodestore.errors import Conflict, Denied, Invalid, NotFound, Overloaded, Unauthenticated, Unavailable
from nodestore.schema import api_types
from nodestore.schema.models import BrowserSession
from nodestore.support.jsonio import dumps
from nodestore.support.tokens import CODE_PREFIX, Token, parse_token
from nodestore.support.values import parse_origin

_LOGINS_A_SECOND, _LOGINS_BURST = 1.0, 20.0
"""By token. A login is two writes in etcd."""
Handler = Callable[[web.Request], Any]


class SessionRoutes:
    """Serves the routes of browser sessions. Any masterd does, without a leader."""

    def __init__(
        self,
        sessions: BrowserSessions,
        credentials: Credentials,
        cookie: SessionCookie,
        browsers: BrowserRules,
        refusals: SlowRefusals,
        audit: AuditLog,
        view: ClusterView,
    ) -> None:
        self._sessions, self._credentials, self._cookie, self._browsers = sessions, credentials, cookie, browsers
        self._refusals, self._audit, self._view = refusals, audit, view
        self._rates = Rates(_LOGINS_A_SECOND, _LOGINS_BURST)

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("POST", "/v1/login", self._login),
            ("POST", "/v1/logout", self._logout),
            ("POST", "/v1/session/code", self._move),
        ]

    async def _login(self, request: web.Request) -> web.StreamResponse:
        origin = self._checked_origin(request)
        body = await read_body(request)
        token, code = text_field(body, "token"), text_field(body, "code")
        if bool(token) == bool(code):
            raise Invalid("expected either token or code")
        before = self._credentials.session_of(request)
        replaces = None if before is None else before[0]
        if token:
            cookie, principal, session = await self._begun(request, token, replaces)
        else:
            cookie, principal, session = await self._moved(request, code, origin, replaces)
        assert principal.role is not None
        answer = _json(api_types.Login(
            principal=str(principal), role=principal.role, ends=session.ends, idle_s=session.idle_s
        ))  # fmt: skip
        answer.headers[hdrs.SET_COOKIE] = self._cookie.set_by(cookie)
        return answer

    async def _begun(
        self, request: web.Request, text: str, replaces: str | None
    ) -> tuple[Token, Principal, BrowserSession]:
        """A session that begins with this token."""
        address = request.remote or ""

        def find() -> Principal | None:
            return self._credentials.by_token(text, address)

        principal = find() or await self._refusals.found_late(address, find)
        if principal is None:
            raise self._refused(request, "invalid token")
        self._count(principal)
        cookie, session = await self._sessions.begin(principal.grant_id, principal.ends, address, replaces)
        self._note(request, "browser login", principal)
        return cookie, principal, session

    async def _moved(
        self, request: web.Request, text: str, origin: str, replaces: str | None
    ) -> tuple[Token, Principal, BrowserSession]:
        """A session that comes from another master, with the code that it has made."""
        code, address = parse_token(text, CODE_PREFIX), request.remote or ""
        found = None if code is None else await self._sessions.exchange(code, origin, address, replaces)
        principal = None if found is None else self._credentials.in_session(found[0].id, found[1], address)
        if found is None or principal is None:
            await self._refusals.found_late(address, lambda: None)
            raise self._refused(request, "invalid code")
        self._note(request, "browser move", principal)
        return found[0], principal, found[1]

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        principal = _session_principal(request)
        every = (await read_body(request)).get("all", False) if request.body_exists else False
        if not isinstance(every, bool):
            raise Invalid("all: expected true or false")
        if (session := self._sessions.by_id(principal.session)) is not None:
            await self._sessions.end(session)
        if every:
            await self._sessions.end_all_of(principal.grant_id)
        self._note(request, "browser logout", principal, "all sessions of its token" if every else "")
        answer = _json(api_types.Empty())
        answer.headers[hdrs.SET_COOKIE] = self._cookie.removed_by()
        return answer

    async def _move(self, request: web.Request) -> web.StreamResponse:
        principal = _session_principal(request)
        master = text_field(await read_body(request), "master")
        origin = self._origin_of(master)
        self._count(principal)
        code = await self._sessions.new_code(principal.session, principal.grant_id, origin)
        return _json(api_types.Move(url=f"{origin}/login#code={code}", code=str(code), ends_s=CODE_S))

    def _origin_of(self, master: str) -> str:
        """The address at which browsers open another master. Raises NotFound, or Conflict without TLS."""
        candidate = self._view.candidates.items.get(master)
        if candidate is None or not candidate.urls:
            known = ", ".join(sorted(self._view.candidates.items)) or "none"
            raise NotFound(f"there is no master {master[:80]!r}; there are: {known}")
        origin = parse_origin("/".join(candidate.urls[0].split("/", 3)[:3]))
        if not origin.startswith("https://"):
            raise Conflict(f"{master} has no TLS, so no browser session can be used there")
        return origin

    def _checked_origin(self, request: web.Request) -> str:
        """The origin of the page that sent the request. Raises Denied if it is none of this masterd's over TLS."""
        origin = request.headers.get(hdrs.ORIGIN, "").lower()
        if not self._browsers.is_own_page(request.headers, is_tls=request.secure):
            raise self._denied(request, "only the login page of this master may log in: programs send their token")
        if not origin.startswith("https://"):
            raise self._denied(request, "a login needs TLS: without it, the token can be read on the way")
        return origin

    def _count(self, principal: Principal) -> None:
        """Raises Overloaded if this token begins too many sessions."""
        if (wait_s := self._rates.wait_s(principal.grant_id, time.monotonic())) > 0.0:
            raise Overloaded(f"{principal} logs in too often; try again in {wait_s:.3g} s", wait_s)

    def _denied(self, request: web.Request, why: str) -> Denied:
        self._note_refusal(request, why)
        return Denied(why)

    def _refused(self, request: web.Request, why: str) -> Unauthenticated | Unavailable:
        if not self._credentials.are_known:
            return Unavailable("this master has not read from etcd yet which tokens are valid; try again in a moment")
        self._note_refusal(request, why)
        return Unauthenticated("the token or code is not valid: it is unknown, has ended, was used or was revoked")

    def _note_refusal(self, request: web.Request, why: str) -> None:
        stranger = Principal(Kind.STRANGER, address=request.remote or "")
        self._audit.record_refusal(stranger, request=f"{request.method} {request.path}", detail=why)

    def _note(self, request: web.Request, event: str, principal: Principal, detail: str = "") -> None:
        self._audit.record_session(event, principal, request=f"{request.method} {request.path}", detail=detail)


def _session_principal(request: web.Request) -> Principal:
    """Who sent the request in a browser session. Raises Invalid if it was sent with another credential."""
    principal = principal_of(request)
    if not principal.session:
        raise Invalid("the request has no cookie of a browser session")
    return principal


def _json(value: Any) -> web.Response:
    return web.Response(body=dumps(value), content_type="application/json", headers={"Cache-Control": "no-store"})
