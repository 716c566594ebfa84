"""HTTP client for other masterds. A forwarded request makes one hop, never two."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from masterd.roles.principal import PRINCIPAL_HEADER, Kind
from masterd.roles.request_principal import principal_of
from nodestore.errors import Garbage, NodectlError, NotLeader, OutcomeUnknown, Unavailable, from_code
from nodestore.support.jsonio import dumps, loads
from nodestore.support.tls_context import TLS_REQUIRED, has_no_tls_text, needs_tls_text

HOP_HEADER = "Nodectl-Hop"
TIMEOUT_HEADER = "Nodectl-Timeout-Ms"
"""How long the sender waits for the answer. A duration, because the clocks of two PCs differ."""
SECRETS_HEADER, SECRETS_MASKED = "Nodectl-Secrets", "masked"
"""With this header and value a client asks for an answer without secrets, although it might see them."""
_CONNECTIONS_MAX = 48
"""To each masterd: below what it accepts from one address."""
_TIMEOUT_S = 12.0
_CONNECT_S = 1.0
_PASSED_BACK = ("Content-Type", "Retry-After", "Nodectl-Index", "Nodectl-Master", "Nodectl-Term")


class PeerClient:
    """Forwards requests to the leader and calls other masterds, over persistent connections.

    tls: the context for https URLs; None: the system's certificate authorities are trusted.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S, sock_connect=_CONNECT_S)
            # The default of 10 s for DNS keeps an address that has changed.
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=_CONNECTIONS_MAX, ttl_dns_cache=1, ssl=self._tls)
            # No cookies: they would be sent with the requests of others.
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def forward(
        self, request: web.Request, url: str | None, own_id: str, problem: str | None = None
    ) -> web.StreamResponse:
        """Forward `request` to the leader at `url` and return its answer.

        Raises NotLeader if `url` is None, if the request was forwarded once already, or if the leader cannot be
        reached. Raises Unavailable (GET) or OutcomeUnknown if the leader did not answer.
        """
        # This masterd's own problem may be the reason why there is no leader.
        why = f"; {own_id}: {problem}" if problem else "; try again in a moment"
        if request.headers.get(HOP_HEADER) is not None:
            raise NotLeader(f"{own_id} is not the leader either{why}", url)
        if url is None:
            raise NotLeader(f"there is no leader at the moment{why}")
        body = await request.read()
        headers = {HOP_HEADER: "1", "Content-Type": request.headers.get("Content-Type", "application/json")}
        principal = principal_of(request)
        if principal.kind is not Kind.ANYONE:
            headers[PRINCIPAL_HEADER] = principal.header()
        for name in (TIMEOUT_HEADER, SECRETS_HEADER):
            if name in request.headers:
                headers[name] = request.headers[name]
        try:
            # As received: aiohttp would resolve `..` in a text, and the leader would serve another route than this one.
            there = URL(url + request.path_qs, encoded=True)
            async with self._open().request(
                request.method, there, data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status == TLS_REQUIRED:
                    raise NotLeader(f"the leader cannot be reached: {needs_tls_text(url)}", url)
                kept = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
                return web.Response(body=await answer.read(), status=answer.status, headers=kept)
        except aiohttp.ClientConnectorError as error:
            if mismatch := has_no_tls_text(url, error):
                raise NotLeader(f"the leader cannot be reached: {mismatch}", url) from None
            raise NotLeader(f"the leader at {url} cannot be reached; a takeover may be in progress", url) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unanswered(request.method, f"the leader at {url}", error) from None

    async def post(self, url: str, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """POST `body` to another masterd and return its answer.

        Raises the error that its problem document names, Unavailable if it was not reached, and OutcomeUnknown if it
        did not answer within `timeout_s`.
        """
        return await self._call("POST", url, dumps(body), timeout_s)

    async def get(self, url: str, timeout_s: float) -> dict[str, Any]:
        """GET from another masterd and return its answer.

        Raises the error that its problem document names, or Unavailable if it did not answer within `timeout_s`.
        """
        return await self._call("GET", url, None, timeout_s)

    async def _call(self, method: str, url: str, body: bytes | None, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s), self._open().request(method, url, data=body) as answer:
                if answer.status == TLS_REQUIRED:
                    raise Unavailable(needs_tls_text(url))
                value = loads(await answer.read(), url)
                if answer.status >= 400:
                    raise from_code(str(value.get("code")), str(value.get("detail")))
                return dict(value)
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(has_no_tls_text(url, error) or f"{url} cannot be reached: {error}") from None
        except (aiohttp.ClientError, TimeoutError, Garbage) as error:
            raise _unanswered(method, url, error) from None


def _unanswered(method: str, peer: str, error: Exception) -> NodectlError:
    """The error for a request without an answer: a GET has no effect, any other request may have taken effect."""
    kind = Unavailable if method == "GET" else OutcomeUnknown
    return kind(f"{peer} did not answer: {error!r}")
