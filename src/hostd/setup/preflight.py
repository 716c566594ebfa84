"""Checks before anything is written: ports, space, and whether this PC belongs to a cluster already."""

from __future__ import annotations

import errno
import ipaddress
import shutil
import socket
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from hostd.pc.host_file import HostFile, load_host_file
from hostd.pc.layout import Layout
from nodestore.errors import Conflict, Invalid, NodectlError
from nodestore.schema.host_models import HostKind, HostPorts, url_host

SPACE_MIN_BYTES = 200 << 20
_USES: Mapping[HostKind, Mapping[str, str]] = {
    "host": {"client": "etcd's clients", "peer": "etcd's members", "api": "masterd"},
    "node": {},
}


def checked_address(text: str) -> str:
    """The IP address of this PC, as others use it. Raises Invalid."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        raise Invalid(f"--address: {text!r} is not an IP address") from None
    if address.is_unspecified or address.is_multicast:
        raise Invalid(f"--address: other PCs cannot connect to {text}: give the address of this PC")
    return str(address)


def own_address_towards(other: str) -> str:
    """The address of this PC from which `other` is reached. Nothing is sent. Raises NodectlError."""
    family = socket.AF_INET6 if ":" in other else socket.AF_INET
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise NodectlError(f"no way to {other}: {error.strerror or error}") from None


def former_host_file(layout: Layout, wanted: HostFile) -> HostFile | None:
    """The host file of an earlier run that is to be continued. Conflict if it is of another cluster, or another PC."""
    found = load_host_file(layout.host_file)
    if found is None:
        return None
    for name in ("cluster", "host", "address", "kind", "ports"):
        has, wants = getattr(found, name), getattr(wanted, name)
        if has != wants:
            raise Conflict(
                f"this PC belongs to the cluster {found.cluster} as {found.host} at {found.address} "
                f"({layout.host_file}): its {name} is {_shown(has)}, not {_shown(wants)}. "
                "To begin anew: nodectl host uninstall"
            )
    return found


def check_has_authorities(layout: Layout, host: HostFile) -> None:
    """Raise Conflict if `host init` would make new authorities for a cluster that has its own.

    A host file is written after the authorities were made, so a PC that has one but no authority has joined, or has
    lost the keys. New certificates would replace those that the cluster trusts.
    """
    if any(layout.pki.glob("*.key")):
        return
    own = f"{url_host(host.address)}:{host.ports.host}"
    if own in host.signers:
        raise Conflict(f"{layout.pki} has no key of the authorities of the cluster {host.cluster}: restore it")
    raise Conflict(
        f"this PC has joined the cluster {host.cluster} as {host.host}: `host init` is for the first PC "
        f"({', '.join(host.signers)}). To begin anew here: nodectl host leave, then this command"
    )


def _shown(value: object) -> str:
    if isinstance(value, HostPorts):
        return f"{value.client}/{value.peer}/{value.api}/{value.host}"
    return str(value)


def check_ports(address: str, kind: HostKind, ports: HostPorts, *, signer: bool) -> None:
    """Raise Conflict if a port is taken, Invalid if the address is none of this PC."""
    uses = dict(_USES[kind])
    if signer:
        uses["host"] = "hostd"
    for name, use in uses.items():
        _check_port(address, getattr(ports, name), use)


def _check_port(address: str, port: int, use: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise Invalid(f"--address: {address} is no address of this PC") from None
            if error.errno == errno.EADDRINUSE:
                raise Conflict(f"port {port} of {address}, for {use}, is taken: end the program that uses it") from None
            raise NodectlError(f"port {port} of {address}: {error.strerror or error}") from None


def check_space(paths: Iterable[Path]) -> None:
    """Raise NodectlError if a disk has too little space for etcd and the logs."""
    for path in paths:
        present = next((parent for parent in (path, *path.parents) if parent.exists()), path)
        free = shutil.disk_usage(present).free
        if free < SPACE_MIN_BYTES:
            raise NodectlError(
                f"{present} has {free >> 20} MB free; at least {SPACE_MIN_BYTES >> 20} MB are needed: free some space"
            )
