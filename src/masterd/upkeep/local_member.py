"""Which of etcd's members runs on this PC: the endpoint whose address is one of this PC's own.

All PCs may be given the same list. Loopback addresses tell nothing, as every PC has them: where the masters themselves
are on one, many PCs are played on a single machine, and there the first endpoint is the own one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import psutil

from nodestore.etcd.types import host_port
from nodestore.support.values import parse_address

_RESOLVE_S = 1.0


@dataclass(frozen=True, slots=True)
class LocalMember:
    """`member`: the endpoint on this PC, None when there is none, or none that is sure; then `why`."""

    member: str | None
    why: str = ""


def own_addresses() -> frozenset[str]:
    """Of all interfaces of this PC, loopback included."""
    try:
        interfaces = psutil.net_if_addrs()
    except OSError:
        return frozenset()
    listed = (address.address for addresses in interfaces.values() for address in addresses)
    return frozenset(literal for item in listed if (literal := _literal(item)) is not None)


async def find_local_member(
    endpoints: Sequence[str],
    advertised: str,
    *,
    local_addresses: Callable[[], frozenset[str]] = own_addresses,
    resolve: Callable[[str], Iterable[str]] | None = None,
    timeout_s: float = _RESOLVE_S,
) -> LocalMember:
    """Looked for among `endpoints`, by the host under which this masterd is `advertised` and by this PC's addresses.
    Names that cannot be resolved within `timeout_s` match nothing but themselves."""
    endpoints = list(dict.fromkeys(host_port(endpoint) for endpoint in endpoints))
    advertised = _bare(advertised)
    names = {endpoint: _bare(parse_address(endpoint).host) for endpoint in endpoints}
    if _is_loopback(advertised) and names[endpoints[0]] == advertised:
        return LocalMember(endpoints[0])
    known = await _resolved({*names.values(), advertised}, resolve or _ask_system, timeout_s)
    ours = {item for item in (*known[advertised], *await asyncio.to_thread(local_addresses)) if not _is_loopback(item)}
    matching = [
        endpoint for endpoint, name in names.items()
        if (name == advertised and not _is_loopback(name)) or not ours.isdisjoint(known[name])
    ]  # fmt: skip
    if len(matching) == 1:
        return LocalMember(matching[0])
    if matching:
        return LocalMember(None, f"{' and '.join(matching)} are both on it")
    unknown = sorted(name for name in set(names.values()) if not known[name])
    lost = f"; not resolved: {', '.join(unknown)}" if unknown else ""
    return LocalMember(None, f"its addresses are not among {', '.join(endpoints)}{lost}")


async def _resolved(
    names: Iterable[str], resolve: Callable[[str], Iterable[str]], timeout_s: float
) -> dict[str, frozenset[str]]:
    """The addresses of each name, as far as they are known in time."""
    names = sorted(names)
    asked = [asyncio.ensure_future(_addresses(name, resolve)) for name in names]
    try:
        await asyncio.wait(asked, timeout=timeout_s)
        return {name: one.result() if one.done() else frozenset() for name, one in zip(names, asked, strict=True)}
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _addresses(name: str, resolve: Callable[[str], Iterable[str]]) -> frozenset[str]:
    if (literal := _literal(name)) is not None:
        return frozenset({literal})
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[frozenset[str]] = loop.create_future()

    def told(found: frozenset[str]) -> None:
        if not answer.done():
            answer.set_result(found)

    def ask() -> None:
        found: frozenset[str] = frozenset()
        with contextlib.suppress(OSError, UnicodeError):
            found = frozenset(literal for item in resolve(name) if (literal := _literal(item)) is not None)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(told, found)

    # A thread of its own, which nobody waits for: the system may take half a minute to give up a name.
    threading.Thread(target=ask, name=f"resolve {name}", daemon=True).start()
    return await answer


def _ask_system(name: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def _literal(text: str) -> str | None:
    """An IP address in its one spelling; None when it is a name, or no address of the Internet's."""
    try:
        address = ipaddress.ip_address(_bare(text).partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_loopback(host: str) -> bool:
    literal = _literal(host)
    return host == "localhost" if literal is None else ipaddress.ip_address(literal).is_loopback


def _bare(host: str) -> str:
    return host.strip("[]").lower().rstrip(".")
