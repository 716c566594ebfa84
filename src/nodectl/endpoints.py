"""Parses the endpoints of a cluster: addresses of etcd members, or URLs of masterds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from nodestore.errors import Invalid
from nodestore.support.values import parse_address

_HINT = "use HOST:PORT for etcd, or http://HOST:PORT for a masterd"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Endpoints of one kind: `etcd` as host:port, or `masters` as base URLs. The other tuple is empty."""

    etcd: tuple[str, ...] = ()
    masters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ",".join(self.etcd or self.masters)


def parse_endpoints(given: str | Iterable[str]) -> Endpoints:
    """Parse endpoints from one or several comma-separated strings, and drop repeated ones.

    Raises Invalid if there is none, if one is malformed, or if both kinds are given.
    """
    texts = [given] if isinstance(given, str) else list(given)
    items = [item.strip() for text in texts for item in text.split(",") if item.strip()]
    if not items:
        raise Invalid(f"no endpoint given: {_HINT}")
    etcd = tuple(dict.fromkeys(_host_port(item) for item in items if not _is_http(item)))
    masters = tuple(dict.fromkeys(_base_url(item) for item in items if _is_http(item)))
    if etcd and masters:
        raise Invalid(f"endpoints of both kinds: {etcd[0]} is etcd, {masters[0]} is a masterd; give one kind only")
    return Endpoints(etcd, masters)


def _is_http(item: str) -> bool:
    return item.lower().startswith(("http://", "https://"))


def _host_port(item: str) -> str:
    try:
        return str(parse_address(item, schemes=("etcd",)))
    except Invalid as error:
        raise Invalid(f"endpoint {error}; {_HINT}") from None


def _base_url(item: str) -> str:
    try:
        parts = urlsplit(item)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"endpoint {item!r}: {error}; {_HINT}") from None
    if not parts.hostname or parts.query or parts.fragment or port == 0:
        raise Invalid(f"endpoint {item!r} is not a base URL: {_HINT}")
    return item.rstrip("/")
