"""The check that every request passes before it is served. A refused one costs little: its body is not read.

1. A web page of another site must not have sent it (`browser_rules`), access control or not.
2. With access control, its sender must have a right to the route (`rights`), by a credential (`credentials`).

Every request with a credential that is not valid is answered after a time that does not depend on what is wrong with it
(`refusal_delays`). So the answer does not show which tokens exist, and guessing is slow. Meanwhile a token or session
that was made at another masterd a moment ago arrives here, and is accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from aiohttp import hdrs, web

from masterd.api.access.audit import AuditLog
from masterd.api.access.browser_rules import BrowserRules, content_type_refusal, cors_headers, preflight_headers
from masterd.api.access.credentials import Credentials
from masterd.api.access.rates import Rates
from masterd.api.access.rights import RIGHTS, Right, command_refusal
from masterd.api.access.sessions.browser_sessions import BrowserSessions
from masterd.api.access.slow_refusals import SlowRefusals
from masterd.api.access.switch import AccessSwitch
from masterd.roles.principal import PRINCIPAL_HEADER, Kind, Principal
from masterd.roles.request_principal import principal_of, set_principal
from masterd.state_machine.batch import CommandRequest
from nodestore.errors import Denied, Forbidden, Invalid, Overloaded, TooLarge, Unauthenticated, Unavailable
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

PAGES = ("/", "/login")
"""The paths of pages. A link of another site may open them."""
_PUBLIC_BODY_BYTES_MAX = 4_096
"""Limit for the body of a request that needs no credential: its sender may be a stranger."""
_END_CHECK_S = 1.0
_KNOWN_S = 2.0
"""How long a request to a masterd that has just started waits until it is known whether access control is on."""
_STRANGER = Principal(Kind.STRANGER)
_PEOPLE = (Kind.TOKEN, Kind.OPERATOR)
_AT_MOST_ONCE = (hdrs.AUTHORIZATION, hdrs.COOKIE, hdrs.ORIGIN, hdrs.CONTENT_TYPE, PRINCIPAL_HEADER)
"""Headers that decide whether a request is served. Of two, a proxy in front may have checked the other one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """A stream that is being served, by `task`."""

    request: web.Request
    principal: Principal
    right: Right
    task: asyncio.Task[object]

    @property
    def is_allowed(self) -> bool:
        """Whether access control allows its principal this stream. It may have begun while access control was off."""
        return self.principal.kind is not Kind.ANYONE and self.right.allows(self.principal, _node_of(self.request))

    def end(self) -> None:
        """End it at once. What was written and not sent yet is discarded."""
        if self.request.transport is not None:
            self.request.transport.abort()
        self.task.cancel()


class Gate:
    """Decides whether a request may be served."""

    def __init__(
        self,
        browsers: BrowserRules,
        switch: AccessSwitch,
        credentials: Credentials,
        sessions: BrowserSessions,
        refusals: SlowRefusals,
        audit: AuditLog,
    ) -> None:
        self._browsers, self._switch, self._credentials, self._audit = browsers, switch, credentials, audit
        self._sessions, self._refusals = sessions, refusals
        self._rights: dict[web.AbstractRoute, Right] = {}
        self._rates = Rates()
        self._streams: list[_Stream] = []
        self._timer: asyncio.TimerHandle | None = None
        self._check_soon: asyncio.Handle | None = None
        self._limited_log = RateLimitedLog(log, 60.0)
        self.on_admitted: Callable[[Principal, web.Request], None] = lambda *_: None
        """Called with each request that a credential allows, and with its principal."""

    def add_route(self, route: web.AbstractRoute, method: str, path: str) -> None:
        """Use the right of `path`, as `RIGHTS` names it, for `route`. KeyError if it has none."""
        self._rights[route] = RIGHTS[method, path]

    async def admit(self, request: web.Request) -> bool:
        """Note who sent the request; return whether its answer is a stream, to be served within `stream`.

        Raises Denied, Forbidden, Invalid, Unauthenticated or aiohttp's error if it is refused.
        """
        self._check_headers(request)
        right = self._rights.get(request.match_info.route)
        if right is None:  # there is no such route, as the answer will say
            return False
        is_on = self._switch.is_on
        if right.is_public:
            _check_public_body(request)
        if right.is_public or (is_on is False and not right.needs_credential):
            self._note_sender(request)
            return right.is_stream
        if is_on is None and not await self._switch.wait_known(_KNOWN_S):
            raise Unavailable("this master has not read from etcd yet who may use it; try again in a moment")
        if self._switch.is_on is False and not right.needs_credential:
            return right.is_stream
        if (refusal := self._session_refusal(request)) is not None:
            self._note_refusal(request, _STRANGER, refusal)
            raise Denied(refusal)
        principal = self._credentials.identify(request) or await self._identified_late(request)
        if principal.kind is Kind.STRANGER:
            self._note_refusal(request, principal, "no credential")
            raise Unauthenticated(
                "this needs a credential: log in with a token (nodectl login), or use a client certificate"
            )
        if not right.allows(principal, _node_of(request)):
            why = self._why_forbidden(request, principal, right)
            self._note_refusal(request, principal, why)
            raise Forbidden(why)
        if principal.kind in _PEOPLE and (wait_s := self._rates.wait_s(str(principal), time.monotonic())) > 0.0:
            raise Overloaded(f"{principal} sends too many requests; try again in {wait_s:.3g} s", wait_s)
        self._set_sender(request, principal)
        self.on_admitted(principal, request)
        return right.is_stream

    def _note_sender(self, request: web.Request) -> None:
        """Note who sent a request that needs no credential, if it has a valid one."""
        known = None if self._session_refusal(request) is not None else self._credentials.identify(request)
        if known is not None and known.kind is not Kind.STRANGER:
            self._set_sender(request, known)

    def _set_sender(self, request: web.Request, principal: Principal) -> None:
        set_principal(request, principal)
        if (session := self._sessions.by_id(principal.session)) is not None:
            self._sessions.note_use(session)

    def _session_refusal(self, request: web.Request) -> str | None:
        """Why the cookie of a session must not count for this request; None if it may, or if there is none."""
        if not self._credentials.is_by_cookie(request):
            return None
        return self._browsers.session_refusal(request.method, request.headers, is_tls=request.secure)

    def _check_headers(self, request: web.Request) -> None:
        headers = request.headers
        for name in _AT_MOST_ONCE:
            if len(headers.getall(name, ())) > 1:
                raise Invalid(f"the request has more than one header {name}: send one")
        is_page = request.method == hdrs.METH_GET and request.path in PAGES
        if (refusal := self._browsers.refusal(headers, is_tls=request.secure, is_page=is_page)) is not None:
            self._note_refusal(request, _STRANGER, refusal)
            raise Denied(refusal)
        if request.body_exists:
            refusal = content_type_refusal(request.path, headers.get(hdrs.CONTENT_TYPE))
            if refusal is not None:
                raise web.HTTPUnsupportedMediaType(reason=refusal)

    async def _identified_late(self, request: web.Request) -> Principal:
        """Who sent the request, examined again after a time. Raises Unauthenticated, or Unavailable if no credential
        can be judged yet."""
        principal = await self._refusals.found_late(
            request.remote or "", lambda: self._credentials.identify(request)
        )  # fmt: skip
        if principal is not None:
            return principal
        if not self._credentials.are_known:
            raise Unavailable(
                "this master has not read from etcd yet which credentials are valid; try again in a moment"
            )
        self._limited_log.log(
            logging.WARNING, f"refused an invalid credential from {request.remote}", about=str(request.remote)
        )
        self._note_refusal(request, _STRANGER, "invalid credential")
        raise Unauthenticated("the credential is not valid: it is unknown, has ended or was revoked; log in again")

    def _why_forbidden(self, request: web.Request, principal: Principal, right: Right) -> str:
        what = f"{request.method} {request.path}"
        if principal.kind is Kind.OPERATOR and principal.role is None:
            return (
                f"{principal} has no role yet: an admin gives it one with `nodectl token create {principal.name} "
                "--certificate --role ROLE`"
            )
        if right.least is not None and right.allows(_without_limits(principal)):
            return f"{principal} may not use {what}: it is limited to some commands or nodes"
        role = f" has the role {principal.role} and" if principal.role else ""
        return f"{principal}{role} may not use {what}: this needs {right.requirement()}"

    def check_commands(self, request: web.Request, commands: list[CommandRequest]) -> None:
        """Raises Forbidden if the sender of the request may not send one of these commands."""
        if self._switch.is_on is False:
            return
        principal = principal_of(request)
        for command in commands:
            if (refusal := command_refusal(principal, command.name, command.args)) is not None:
                self._note_refusal(request, principal, refusal)
                raise Forbidden(refusal)

    def record_done(self, request: web.Request, status: int) -> None:
        """Record a request that changed something which only maintainers may. What admins do is recorded in detail."""
        right = self._rights.get(request.match_info.route)
        if right is None or right.least != "maintainer" or request.method in ("GET", "HEAD") or status >= 300:
            return
        principal = principal_of(request)
        if principal.kind in _PEOPLE:
            self._audit.record_change("maintained", principal, request=f"{request.method} {request.path}")

    def record_refusals(self, request: web.Request, errors: Iterable[Exception | None]) -> None:
        """Record the commands of the request that the leader refused because of the limits of their sender."""
        for error in errors:
            if isinstance(error, Forbidden):
                self._note_refusal(request, principal_of(request), str(error))

    def _note_refusal(self, request: web.Request, principal: Principal, why: str) -> None:
        known = principal if principal.address else replace(principal, address=request.remote or "")
        self._audit.record_refusal(known, request=f"{request.method} {request.path}", detail=why)

    def knows_sender(self, request: web.Request) -> bool:
        """Whether the sender has a valid credential, or needs none."""
        return self._switch.is_on is False or principal_of(request).kind is not Kind.ANYONE

    # --- streams ---

    @contextlib.contextmanager
    def stream(self, request: web.Request) -> Iterator[None]:
        """While the stream is served: end it when its credential ends, is revoked or gets other limits."""
        task = asyncio.current_task()
        assert task is not None
        right = self._rights[request.match_info.route]
        stream = _Stream(request, principal_of(request), right, task)
        self._streams.append(stream)
        self._schedule()
        try:
            yield
        finally:
            self._streams = [other for other in self._streams if other is not stream]

    def credentials_changed(self, _: str = "") -> None:
        """A grant changed: end the streams that are no longer allowed."""
        self._credentials.forget()
        self.sessions_changed()

    def sessions_changed(self, _: str = "") -> None:
        """A browser session changed: end the streams that are no longer allowed, once for changes of the same moment,
        such as those of a listing."""
        if self._streams and self._check_soon is None:
            self._check_soon = asyncio.get_running_loop().call_soon(self._end_changed)

    def _end_changed(self) -> None:
        self._check_soon = None
        self.end_streams()

    def end_streams(self) -> None:
        """End the streams whose credential is no longer valid, or does not allow them."""
        if self._switch.is_on is False:
            return
        for stream in tuple(self._streams):
            if not (stream.is_allowed and self._credentials.is_valid(stream.principal)):
                log.info("ending %s of %s: its credential does not allow it", stream.request.path, stream.principal)
                stream.end()

    def _schedule(self) -> None:
        """Check the streams every second, as long as there are any."""
        if self._timer is None and self._streams:
            self._timer = asyncio.get_running_loop().call_later(_END_CHECK_S, self._check)

    def _check(self) -> None:
        self._timer = None
        self.end_streams()
        self._schedule()

    async def close(self) -> None:
        """End the checks, and write the audit log."""
        await self._audit.close()
        await self._sessions.close()
        for timer in (self._timer, self._check_soon):
            if timer is not None:
                timer.cancel()

    # --- pages of trusted origins ---

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks whether a page of a trusted origin may send a request; else None."""
        origin = request.headers.get(hdrs.ORIGIN)
        if request.method != hdrs.METH_OPTIONS or origin not in self._browsers.trusted_origins:
            return None
        return web.Response(status=204, headers=preflight_headers(str(origin)))

    def install(self, app: web.Application) -> None:
        """Let pages of trusted origins, if there are any, read the answers of `app`."""
        if self._browsers.trusted_origins:
            app.on_response_prepare.append(self._add_cors_headers)

    async def _add_cors_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self._browsers.trusted_origins:
            response.headers.update(cors_headers(str(origin)))


def _check_public_body(request: web.Request) -> None:
    """Raises TooLarge if the body of a request that needs no credential is large, or may be."""
    if request.body_exists and (request.content_length is None or request.content_length > _PUBLIC_BODY_BYTES_MAX):
        raise TooLarge(f"the body of this request needs a length, of at most {_PUBLIC_BODY_BYTES_MAX} bytes")


def _node_of(request: web.Request) -> str:
    """The node that the path of the request names; empty if it names none."""
    return request.match_info.get("node", "")


def _without_limits(principal: Principal) -> Principal:
    return Principal(principal.kind, principal.name, principal.role)
