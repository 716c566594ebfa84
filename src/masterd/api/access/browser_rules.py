"""Which requests a web browser may send to masterd. Pure.

A web page that an operator opens can make the browser send requests to any address that the browser reaches, loopback
included, with the browser's cookies and client certificate. Three rules stop it. They hold for every request, whatever
its credential, because no credential tells a page's request from the operator's own.

1. `Host` names this masterd: an IP address, `localhost`, its own name, or a name in the settings. A page whose author
   lets its name point to this PC (DNS rebinding) sends that name, which is none of these. An address is safe, because
   the page then came from it. A request without `Host` comes from no browser.
2. `Origin`, if present, is this masterd itself (scheme, host and port) or in the settings. Without it `Sec-Fetch-Site`
   does not say that a page of another site sent the request.
3. A body is `application/json`. Browsers send other types across sites without asking first.

A link of another site may open a page of this masterd, which holds no data.

A cookie counts for less than other credentials. The browser adds it to requests that the pages of other ports of the
same host cause, and an origin in the settings is not this masterd's own page. So a request with the cookie of a session
must come from a page of this masterd itself, over TLS: `Origin` is exactly its own, or, if a page only reads, there is
no `Origin` and `Sec-Fetch-Site` is `same-origin`.

A program that is no browser sends neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

CAMPAIGN_PATH = "/v1/campaign"
_JSON = "application/json"
_KNOWN_MAX = 64
_SHOWN_CHARS = 80
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(?::[0-9]{1,5})?", re.ASCII)
_OTHER_SITES = ("cross-site", "same-site")
_READS = ("GET", "HEAD")


class BrowserRules:
    """Decides whether a request may have been made by a web page of another site.

    names: the names of hosts under which this masterd is reached. Addresses and `localhost` need not be among them.
    trusted_origins: origins of web pages that may send requests here, as `parse_origin` of nodestore returns them.
    """

    def __init__(self, names: Iterable[str] = (), trusted_origins: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower().removesuffix(".") for name in names)
        self.trusted_origins = frozenset(trusted_origins)
        self._known: set[str] = set()

    def refusal(self, headers: Mapping[str, str], *, is_tls: bool, is_page: bool = False) -> str | None:
        """Why this request is refused, for its sender; None if it may be served. is_page: it asks for a page."""
        host = headers.get("Host")
        if host is not None and host not in self._known and (problem := self._host_problem(host)) is not None:
            return problem
        origin = headers.get("Origin")
        if origin is not None:
            return self._origin_problem(origin, host or "", is_tls)
        site = headers.get("Sec-Fetch-Site")
        if site is not None and site in _OTHER_SITES and not (is_page and _follows_link(headers)):
            return "a web page of another site sent this request: open the address itself, or use nodectl"
        return None

    def session_refusal(self, method: str, headers: Mapping[str, str], *, is_tls: bool) -> str | None:
        """Why a request with the cookie of a session is refused, although `refusal` allows it; None if it may be
        served."""
        origin = headers.get("Origin", "")
        if self.is_own_page(headers, is_tls=is_tls) and origin.lower().startswith("https://"):
            return None
        if method in _READS and not origin and headers.get("Sec-Fetch-Site") == "same-origin":
            return None
        return "a browser session counts only for requests of this master's own pages: send a token instead"

    def is_own_page(self, headers: Mapping[str, str], *, is_tls: bool) -> bool:
        """Whether the header `Origin` is exactly this masterd's own, as its pages send it."""
        return headers.get("Origin", "").lower() in self._own_origins(headers.get("Host", ""), is_tls)

    def _own_origins(self, host: str, is_tls: bool) -> set[str]:
        """The origins of this masterd's own pages. A proxy in front may have ended TLS: then the settings say so."""
        own = f"{'https' if is_tls else 'http'}://{host}".lower()
        by_proxy = f"https://{host}".lower()
        return {own, by_proxy} if by_proxy in self.trusted_origins else {own}

    def _host_problem(self, host: str) -> str | None:
        found = _HOST.fullmatch(host)
        name = found["name"].lower().removesuffix(".") if found is not None else ""
        if not (name == "localhost" or name in self._names or _is_address(name)):
            return (
                f"the request names the host {host[:_SHOWN_CHARS]!r}, which this master does not know as its own: use "
                "its address, or start masterd with --allow-host"
            )
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known.add(host)
        return None

    def _origin_problem(self, origin: str, host: str, is_tls: bool) -> str | None:
        own = f"{'https' if is_tls else 'http'}://{host}"
        if origin.lower() == own.lower() or origin in self.trusted_origins:
            return None
        return (
            f"a web page of {origin[:_SHOWN_CHARS]!r} sent this request, and only pages of {own[:_SHOWN_CHARS]!r} may: "
            "to allow others, start masterd with --allow-origin"
        )


def _is_address(name: str) -> bool:
    """Whether it is an IP address as URLs write it: an IPv6 address in brackets, an IPv4 address without them."""
    try:
        if name.startswith("["):
            ipaddress.IPv6Address(name[1:-1])
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def content_type_refusal(path: str, content_type: str | None) -> str | None:
    """Why a body of this type is refused; None if it may be read."""
    if content_type == _JSON:
        return None
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == _JSON:
        return None
    # A masterd of an earlier release sends this with its order to take over. A browser asks first before it sends it.
    if path == CAMPAIGN_PATH and kind == "application/octet-stream":
        return None
    shown = f"is {kind[:_SHOWN_CHARS]!r}" if kind else "has no type"
    return f"the body {shown}: send it as JSON, with Content-Type: application/json"


def _follows_link(headers: Mapping[str, str]) -> bool:
    """Whether the browser opens the answer in a window of its own, not within a page of the other site."""
    return headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"


def preflight_headers(origin: str) -> dict[str, str]:
    """Headers of the answer to a browser that asks whether a page of a trusted origin may send a request.

    No header allows the browser to add cookies or a client certificate: such a page must send a token.
    """
    return {
        **cors_headers(origin),
        "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, Nodectl-Timeout-Ms",
        "Access-Control-Max-Age": "600",
    }


def cors_headers(origin: str) -> dict[str, str]:
    """Headers that let a page of a trusted origin read the answer."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "Nodectl-Age-Ms, Nodectl-Index, Nodectl-Master, Nodectl-Term, Retry-After",
        "Vary": "Origin",
    }
