"""Finds the etcd member on this PC: the endpoint whose address is one of this PC's own addresses.

All PCs may have the same list of endpoints. A loopback address does not identify a PC, because every PC has it. If this
masterd itself advertises a loopback address, one machine simulates several PCs. In that case the first endpoint counts
as this masterd's own member, if it has the same host.
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
from nodestore.support.tasks import owned_task
from nodestore.support.values import parse_address

_RESOLVE_S = 1.0


@dataclass(frozen=True, slots=True)
class LocalMember:
    """The endpoint that is on this PC. `member` is None if no endpoint or more than one matches; `why` says which."""

    member: str | None
    why: str = ""


def own_addresses() -> frozenset[str]:
    """The addresses of all interfaces of this PC, loopback included; empty if they cannot be listed."""
    try:
        interfaces = psutil.net_if_addrs()
    except OSError:
        return frozenset()
    listed = (address.address for addresses in interfaces.values() for address in addresses)
    return frozenset(literal for item in listed if (literal := literal_address(item)) is not None)


async def find_local_member(
    endpoints: Sequence[str],
    advertised: str,
    *,
    local_addresses: Callable[[], frozenset[str]] = own_addresses,
    resolve: Callable[[str], Iterable[str]] | None = None,
    timeout_s: float = _RESOLVE_S,
) -> LocalMember:
    """Find the one endpoint whose host is the `advertised` host of this masterd or an address of this PC.

    A host name that cannot be resolved within `timeout_s` seconds matches only an identical name.
    """
    endpoints = list(dict.fromkeys(host_port(endpoint) for endpoint in endpoints))
    advertised = _bare(advertised)
    names = {endpoint: _bare(parse_address(endpoint).host) for endpoint in endpoints}
    if _is_loopback(advertised) and names[endpoints[0]] == advertised:
        return LocalMember(endpoints[0])
    known = await resolve_names({*names.values(), advertised}, resolve or resolve_by_system, timeout_s)
    ours = {item for item in (*known[advertised], *await asyncio.to_thread(local_addresses)) if not _is_loopback(item)}
    matching = [
        endpoint for endpoint, name in names.items()
        if (name == advertised and not _is_loopback(name)) or not ours.isdisjoint(known[name])
    ]  # fmt: skip
    if len(matching) == 1:
        return LocalMember(matching[0])
    if matching:
        return LocalMember(None, f"{' and '.join(matching)} are both on this PC")
    unknown = sorted(name for name in set(names.values()) if not known[name])
    unresolved = f"; not resolved: {', '.join(unknown)}" if unknown else ""
    return LocalMember(None, f"no endpoint of {', '.join(endpoints)} is an address of this PC{unresolved}")


async def resolve_names(
    names: Iterable[str], resolve: Callable[[str], Iterable[str]], timeout_s: float
) -> dict[str, frozenset[str]]:
    """The addresses of each name; empty for a name that is not resolved within `timeout_s`."""
    names = sorted(names)
    lookups = [owned_task(_addresses(name, resolve)) for name in names]
    try:
        await asyncio.wait(lookups, timeout=timeout_s)
        return {
            name: lookup.result() if lookup.done() else frozenset() for name, lookup in zip(names, lookups, strict=True)
        }
    finally:
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)


async def _addresses(name: str, resolve: Callable[[str], Iterable[str]]) -> frozenset[str]:
    if (literal := literal_address(name)) is not None:
        return frozenset({literal})
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[frozenset[str]] = loop.create_future()

    def set_answer(addresses: frozenset[str]) -> None:
        if not answer.done():
            answer.set_result(addresses)

    def resolve_name() -> None:
        addresses: frozenset[str] = frozenset()
        with contextlib.suppress(OSError, UnicodeError):
            addresses = frozenset(literal for item in resolve(name) if (literal := literal_address(item)) is not None)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(set_answer, addresses)

    # A daemon thread, which is never joined: the system's resolver may take half a minute to time out.
    threading.Thread(target=resolve_name, name=f"resolve {name}", daemon=True).start()
    return await answer


def resolve_by_system(name: str) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def literal_address(text: str) -> str | None:
    """`text` as an IP address in canonical form; None if it is not an IP address."""
    try:
        address = ipaddress.ip_address(_bare(text).partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_loopback(host: str) -> bool:
    literal = literal_address(host)
    return host == "localhost" if literal is None else ipaddress.ip_address(literal).is_loopback


def _bare(host: str) -> str:
    return host.strip("[]").lower().rstrip(".")
