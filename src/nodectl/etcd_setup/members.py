"""Parses the members of an etcd cluster from the command line: NAME=ADDRESS, each value checked. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from nodestore.errors import Invalid
from nodestore.schema.keys import check_name
from nodestore.support.values import parse_host_name

MEMBERS_MAX = 7

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_members(texts: Sequence[str]) -> dict[str, str]:
    """Parse NAME=ADDRESS items into a mapping of names to hosts, in the given order and in the form that URLs use.

    Raises Invalid unless there are 1 to 7 members with distinct names and addresses.
    """
    members: dict[str, str] = {}
    for text in texts:
        name, host = _parse_member(text)
        if name in members:
            raise Invalid(f"--member {name} is given twice")
        for other, other_host in members.items():
            if other_host == host:
                raise Invalid(f"--member {name}: {host} is already the address of {other}")
        members[name] = host
    if not 1 <= len(members) <= MEMBERS_MAX:
        raise Invalid(f"{len(members)} members are given; an etcd cluster for nodectl has 1 to {MEMBERS_MAX}")
    return members


def _parse_member(text: str) -> tuple[str, str]:
    name, separator, address = text.partition("=")
    if not separator:
        raise Invalid(f"--member {text!r} is not NAME=ADDRESS; an example is pc1=10.0.0.1")
    return check_name("member", name), parse_host(address, f"--member {name}")


def parse_host(text: str, option: str) -> str:
    """Parse an IP address or a host name into the form that URLs use: IPv6 in brackets, letters in lower case.

    Raises Invalid, with the option's name, if it is neither, or an address that other members cannot connect to.
    """
    ip = ip_of(text)
    if ip is not None:
        if ip.is_multicast or ip.is_unspecified or _needs_interface(ip):
            raise Invalid(f"{option}: other members cannot connect to {text}; give the PC's own address")
        return url_host(ip)
    try:
        if "_" in text:  # permitted in names of DNS, but not in those of hosts
            raise Invalid(text)
        return parse_host_name(text)
    except Invalid:
        hint = "; --client-port and --peer-port set the ports" if ":" in text else ""
        raise Invalid(f"{option}: {text!r} is not an IP address or a host name{hint}") from None


def parse_listen(text: str) -> str:
    """Parse the IP address of --listen into the form that URLs use. 0.0.0.0 and :: mean all interfaces."""
    ip = ip_of(text)
    if ip is None or ip.is_multicast or _needs_interface(ip):
        raise Invalid(f"--listen: {text!r} is not an IP address to listen on; 0.0.0.0 means all interfaces")
    return url_host(ip)


def ip_of(text: str) -> Ip | None:
    """The IP address in `text`, with or without the brackets of a URL; None if it holds no IP address."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        return None


def url_host(ip: Ip) -> str:
    """`ip` as the host of a URL."""
    return f"[{ip}]" if ip.version == 6 else str(ip)


def _needs_interface(ip: Ip) -> bool:
    """Whether `ip` is valid only together with an interface name, which etcd's URLs cannot contain."""
    return isinstance(ip, ipaddress.IPv6Address) and (ip.is_link_local or ip.scope_id is not None)


def survives(members: int) -> int:
    """How many members of a cluster of this size may fail without loss of quorum."""
    return (members - 1) // 2


def warnings(members: Mapping[str, str]) -> list[str]:
    """Warnings about members that are allowed but probably a mistake."""
    texts = []
    count = len(members)
    if count % 2 == 0:
        texts.append(f"an even number adds no safety: {count} members survive no more failures than {count - 1}")
    for name, host in members.items():
        ip = ip_of(host)
        if count > 1 and (host == "localhost" or (ip is not None and ip.is_loopback)):
            texts.append(f"member {name}: other PCs cannot connect to the loopback address {host}")
    return texts
