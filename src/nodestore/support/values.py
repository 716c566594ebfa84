"""Parses values that people write in options, variables and files: addresses, durations, numbers. Pure.

If a text is wrong, its parser raises Invalid with one line that quotes it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from nodestore.errors import Invalid

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\s:/?#@\[\]]*)):(?P<port>[0-9]{1,5})")
_PORT_MAX = 65_535
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_HOST_LABEL}(?:\.{_HOST_LABEL})*", re.ASCII)

T = TypeVar("T")

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*(?P<unit>ms|s|m|h|)", re.ASCII)
_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3_600.0}
_DECIMALS = 9


class Address(NamedTuple):
    """A host and a TCP port. `host` is a name or an IP address; an IPv6 address has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port`; an IPv6 address has its brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, schemes: Collection[str] = (), host_optional: bool = False) -> Address:
    """The address in `host:port` or `[ipv6]:port`. Raises Invalid.

    An IPv6 address is returned in its canonical form, so that equal addresses are equal texts.

    schemes: the schemes, in lower case, that may precede the address, as in `http://host:port/`. host_optional: permits
    `:port`.
    """
    scheme, separator, rest = text.rpartition("://")
    found = _ADDRESS.fullmatch(rest.rstrip("/") if schemes else rest)
    known = not separator or scheme.lower() in schemes
    if found is None or not known or not _is_address(found, host_optional):
        raise Invalid(f"{text!r} is not host:port, such as 10.0.0.11:2379 or [::1]:2379")
    host = found["host"] if found["ipv6"] is None else str(ipaddress.IPv6Address(found["ipv6"]))
    return Address(host, int(found["port"]))


def _is_address(found: re.Match[str], host_optional: bool) -> bool:
    if not 0 < int(found["port"]) <= _PORT_MAX:
        return False
    return bool(found["host"] or host_optional) if found["ipv6"] is None else _is_ipv6(found["ipv6"])


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether this is an address of loopback, or `localhost`. Any other name may point to another PC."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_host_name(text: str) -> str:
    """The name of a host, in lower case and without a final dot. Raises Invalid."""
    name = text.strip().lower().removesuffix(".")
    if not _HOST_NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():  # else 10.0.0.256 would be a name
        raise Invalid(f"{text!r} is not the name of a host, such as pc1 or pc1.plant.example")
    return name


def parse_host(text: str, *, wildcard: bool = False) -> str:
    """An IP address in its canonical form, without brackets, or the name of a host. Raises Invalid.

    wildcard: permits the name `*.example`, as certificates have it.
    """
    bare = text.strip().removeprefix("[").removesuffix("]")
    with suppress(ValueError):
        return str(ipaddress.ip_address(bare))
    prefix = "*." if wildcard and bare.startswith("*.") else ""
    try:
        return prefix + parse_host_name(bare.removeprefix(prefix))
    except Invalid:
        raise Invalid(f"{text!r} is neither a DNS name nor an IP address, such as pc1.example or 10.0.0.11") from None


def parse_origin(text: str) -> str:
    """The origin of a web page as browsers write it: scheme, host, and the port if it is not the default. Raises
    Invalid."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    rest = parts.path.rstrip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in _DEFAULT_PORTS or not host or "*" in host or rest:
        raise Invalid(f"{text!r} is not the origin of a web page, such as https://wall.example or http://10.0.0.1:3000")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}")


def each_of(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """A parser of a list of values, separated by commas. Empty items are skipped."""
    return lambda text: tuple(parse(item.strip()) for item in text.split(",") if item.strip())


def parse_duration(text: str) -> float:
    """The seconds in `300ms`, `5s`, `5m` or `1h`; a number without a unit is in seconds. Raises Invalid."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise Invalid(f"{text!r} is not a time such as 0.3, 300ms, 5s, 5m or 1h")
    return round(float(found["number"]) * _UNITS_S[found["unit"]], _DECIMALS)


def format_duration(duration_s: float) -> str:
    """The text that `parse_duration` reads: `300ms`, `5s`, `5m` or `1h`. Rounded to nanoseconds."""
    if 0 < duration_s < 1:
        return f"{_decimal(duration_s * 1_000, _DECIMALS - 3)}ms"
    for unit in ("h", "m"):
        count, rest = divmod(duration_s, _UNITS_S[unit])
        if count and not rest:
            return f"{count:.0f}{unit}"
    return f"{_decimal(duration_s, _DECIMALS)}s"


def _decimal(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def duration_between(least_s: float, most_s: float) -> Callable[[str], float]:
    """A parser of durations within bounds, both in seconds."""

    def parse(text: str) -> float:
        duration_s = parse_duration(text)
        if not least_s <= duration_s <= most_s:
            raise Invalid(f"{text!r} is not between {format_duration(least_s)} and {format_duration(most_s)}")
        return duration_s

    return parse


def whole_seconds_between(least_s: int, most_s: int) -> Callable[[str], int]:
    """A parser of durations within bounds that are a whole number of seconds."""
    bounded = duration_between(least_s, most_s)

    def parse(text: str) -> int:
        duration_s = bounded(text)
        if not duration_s.is_integer():
            raise Invalid(f"{text!r} is not a whole number of seconds")
        return int(duration_s)

    return parse


def whole_between(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers within bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise Invalid(f"{text!r} is not a number") from None
        if not least <= value <= most:
            raise Invalid(f"{text!r} is not between {least} and {most}")
        return value

    return parse


def check_credentials(
    *,
    user: object = None,
    password_file: object = None,
    cert: object = None,
    key: object = None,
    has_ca: bool = True,
    prefix: str = "--",
) -> None:
    """Raise Invalid unless user and password file are given together, and certificate and key too. None: not given.

    has_ca: whether a certificate authority is given; without one, a certificate is Invalid. prefix: what precedes the
    option names in messages.
    """
    for first, second, together in (
        ("user", "password-file", (user is None) == (password_file is None)),
        ("cert", "key", (cert is None) == (key is None)),
    ):
        if not together:
            raise Invalid(f"{prefix}{first} and {prefix}{second} belong together: give both or neither")
    if cert is not None and not has_ca:
        raise Invalid(f"{prefix}cert needs --ca: without it there is no TLS, and certificates are not used")
