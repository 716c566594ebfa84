"""One HTTP request to one masterd, without retries; failures are classified by whether it may have been received."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp

from nodectl.client.connection.bearer import BearerToken
from nodectl.client.connection.errors import Broken
from nodestore.errors import Denied, Garbage, Invalid, NodectlError, NotFound, NotLeader, Unavailable, from_code
from nodestore.support.json_rules import finite
from nodestore.support.jsonio import encoded_if_plain, loads
from nodestore.support.tls_context import TLS_REQUIRED, FollowingContext, has_no_tls_text, needs_tls_text
from nodestore.support.tls_errors import explain
from nodestore.support.tls_files import CertificateEnd, TlsFiles, certificate_end_of, end_warning

log = logging.getLogger(__name__)

CONNECT_S = 1.0
DNS_CACHE_S = 1
_FILES_CHECK_S = 1.0
RETRY_AFTER_MAX_S = 30.0
_METHOD_NOT_ALLOWED = 405
_JSON = {"Content-Type": "application/json"}
_SECRETS_HEADER = "Nodectl-Secrets"
_TIMEOUT_HEADER = "Nodectl-Timeout-Ms"
"""Tells the master how long this attempt waits: it drops, unrun, what it cannot serve in that time."""


class Http:
    """The connections of one client. Without `tls.ca` the system's certificate authorities are trusted.

    mask_secrets: ask for answers without secrets.
    """

    def __init__(self, tls: TlsFiles, bearer: BearerToken | None = None, *, mask_secrets: bool = False) -> None:
        self._tls, self._bearer = tls, bearer or BearerToken()
        self._wishes = {_SECRETS_HEADER: "masked"} if mask_secrets else {}
        self._context: FollowingContext | None = None
        self._signature: tuple[object, ...] = ()
        self._next_check_at = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session. Raises Invalid if a TLS file cannot be used."""
        if self._tls.ca is not None or self._tls.cert is not None:
            self._signature = self._tls.signature()
            self._context = FollowingContext(self._tls.read(), server_side=False)
        # A name is resolved anew for nearly every connection: the address of a PC may change.
        connector = aiohttp.TCPConnector(
            limit=64, ttl_dns_cache=DNS_CACHE_S, ssl=self._context if self._context is not None else True
        )
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with Client(...)`")
        self._renew_certificates()
        return self._session

    def _renew_certificates(self) -> None:
        """Use renewed certificates for new connections. Files that cannot be used, as while written, change nothing."""
        if self._context is None or (now := time.monotonic()) < self._next_check_at:
            return
        self._next_check_at = now + _FILES_CHECK_S
        signature = self._tls.signature()
        if signature == self._signature:
            return
        try:
            self._context.renew(self._tls.read())
        except Invalid as error:
            log.debug("the former certificates stay in use: %s", error)
            return
        self._signature = signature

    def headers_for(self, url: str) -> dict[str, str]:
        """The headers of every request to `url`: the credential, and whether secrets are masked in the answer."""
        return {**self._wishes, **self._bearer.headers(url)}

    async def call(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Any:
        """Return the JSON answer, or raise the error in it. Raises Broken if none came within `timeout_s` seconds."""
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        try:
            async with self.session.request(
                method,
                url,
                data=body,
                params=params,
                headers={
                    _TIMEOUT_HEADER: str(max(1, round(timeout_s * 1000))),
                    **(_JSON if body is not None else {}),
                    **self.headers_for(url),
                },
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._with_own_end(to_request_error(error, url, timeout_s)) from None
        if 200 <= status < 300:
            return loads(raw, f"answer of {url}") if raw else None
        raise parse_problem(status, raw, url)

    def _with_own_end(self, error: Broken | NodectlError) -> Broken | NodectlError:
        """Name the client's own certificate if it has ended: a server that refuses it closes the connection, and with
        TLS 1.3 the reason may be lost."""
        if not isinstance(error, Broken) or self._tls.cert is None:
            return error
        with suppress(Invalid):
            end = CertificateEnd(certificate_end_of(self._tls.cert), self._tls.cert)
            if end.time <= (now := time.time()):
                return Broken(f"{error} ({end_warning(end, now)})", sent=error.sent)
        return error


def to_request_error(error: BaseException, url: str, timeout_s: float) -> Broken | NodectlError:
    """Convert an exception of aiohttp into Broken, or into the typed error that it stands for."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Denied(f"{url}: its certificate is not trusted: {explain(str(error.certificate_error))}")
    if mismatch := has_no_tls_text(url, error):
        return Broken(mismatch, sent=False)
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error.strerror or str(error.os_error) or type(error.os_error).__name__
        return Broken(f"{_base(url)}: {reason}", sent=False)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Broken(f"{_base(url)}: no connection within {CONNECT_S:g} s", sent=False)
    if isinstance(error, aiohttp.InvalidURL):
        return Invalid(f"{url!r} is not a URL")
    if isinstance(error, TimeoutError):
        return Broken(f"{_base(url)}: no answer within {timeout_s:.3g} s", sent=True)
    return Broken(f"{_base(url)}: {str(error) or type(error).__name__}", sent=True)


def parse_problem(status: int, raw: bytes, url: str) -> Broken | NodectlError:
    """Return the typed error of a problem document. Return Broken for a server error without one, and if the port wants
    TLS: no master has received the request, and another URL may serve it."""
    if status == TLS_REQUIRED and not url.startswith("https:"):
        return Broken(needs_tls_text(url), sent=False)
    if status == _METHOD_NOT_ALLOWED:  # this client uses no method that its own release's masterd does not have
        path = urlsplit(url).path
        return NotFound(f"{_base(url)} runs an older release, which cannot do this ({path}): upgrade that masterd")
    try:
        document = loads(raw)
    except Garbage:
        document = None
    if isinstance(document, dict) and isinstance(document.get("code"), str):
        return from_problem(document)
    if status >= 500:  # from a proxy in between, or from a masterd that failed while it handled the request
        return Broken(f"{_base(url)}: HTTP {status}", sent=True)
    return NodectlError(f"{url} answered HTTP {status} and no problem document: is this a masterd?")


def from_problem(document: Mapping[str, Any]) -> NodectlError:
    """Return the error that a problem document describes."""
    message = document.get("detail") or document.get("title") or document["code"]
    error = from_code(str(document["code"]), str(message))
    if isinstance(error, NotLeader):
        error.url = document.get("leader_url")
    elif isinstance(error, Unavailable) and isinstance(wait_s := document.get("retry_after_s"), int | float):
        error.retry_after_s = min(float(wait_s), RETRY_AFTER_MAX_S)
    return error


def _base(url: str) -> str:
    return url.split("/v1/", 1)[0]


def encode_body(value: Any) -> bytes:
    """Return the JSON body of a request.

    Raises Invalid if `value` is not representable as JSON. A date, a Decimal or bytes are not: the caller decides
    whether they become text or a number.
    """
    if (raw := encoded_if_plain(value)) is not None:
        return raw
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise Invalid("a string contains half of a surrogate pair, which is not a character") from None
    except TypeError:
        raise Invalid(_find_stranger(value, "") or "not representable as JSON") from None
    except RecursionError:
        raise Invalid("not representable as JSON: nested too deeply") from None
    except ValueError as error:
        if "Circular" in str(error):
            raise Invalid("not representable as JSON: a value contains itself") from None
        if finite(value):
            raise Invalid(f"not representable as JSON: {error}") from None
        raise Invalid(
            "a number is infinite or NaN (1e999 is too large and becomes infinite): JSON has no such numbers"
        ) from None


def _find_stranger(value: Any, where: str) -> str | None:
    """A sentence about the first value or key whose type JSON does not have."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int | float | None):
                return f"{where or 'the object'}: a key of type {type(key).__name__} is not text"
            if found := _find_stranger(item, f"{where}.{key}" if where else str(key)):
                return found
        return None
    if isinstance(value, list | tuple):
        texts = (_find_stranger(item, f"{where}[{position}]") for position, item in enumerate(value))
        return next((text for text in texts if text), None)
    if value is None or isinstance(value, str | int | float):
        return None
    return f"{where}: {value!r:.60} is of type {type(value).__name__}, which JSON does not have: pass a number or text"


def as_object(value: Any, what: str) -> dict[str, Any]:
    """`value` as a dict; itself if it is one. Raises Invalid, which names `what`, unless it is a mapping."""
    if type(value) is dict:
        return value
    if not isinstance(value, Mapping):
        raise Invalid(f"{what}: expected a mapping of names to values, got {value!r:.60}")
    return dict(value)


def path_segment(text: str) -> str:
    """`text` as one segment of a URL. Raises Invalid for an empty one, `.` and `..`, which would name another path."""
    if text in ("", ".", ".."):
        raise Invalid(f"{text!r} cannot be part of a name or path: it is empty, '.' or '..'")
    return quote(text, safe="")


async def cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and await their end; ignore their failures."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
