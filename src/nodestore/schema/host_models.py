"""The models of hosts in etcd: what a PC of the cluster is, and what its hostd reports. See `models`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nodesdk.models import Model, Stored

HostKind = Literal["node", "host"]
"""node: a PC that runs noded only. host: a PC that may also have a member of etcd, and then runs masterd."""
HostState = Literal["in_service", "drained", "leaving"]
"""drained: its leaderships and its application are handed over. leaving: it is being removed from the cluster."""


class HostPorts(Model):
    """The ports of a PC's programs, each at the PC's address."""

    client: int = Field(default=2379, description="etcd, for clients")
    peer: int = Field(default=2380, description="etcd, for other members")
    api: int = Field(default=8401, description="masterd")
    host: int = Field(default=8403, description="hostd, on a signer")


class HostRecord(Stored):
    """`hosts/<host>`: a PC of the cluster, and what it is meant to be."""

    address: str
    kind: HostKind
    state: HostState = "in_service"
    ports: HostPorts = HostPorts()
    signer: bool = Field(default=False, description="whether it has the keys of the authorities")
    key: str = Field(description="SHA-256 of the public key of its hostd, by which a repeated join is recognised")
    replaces: str = Field(default="", description="the host whose member it takes over")
    actor: str
    time: float

    @property
    def peer_url(self) -> str:
        """The address of its member for other members."""
        return f"https://{url_host(self.address)}:{self.ports.peer}"


class ServiceReport(Model):
    """What hostd found of one service."""

    state: str
    pid: int | None = None
    problem: str = ""


class HostActual(Stored):
    """`hosts-actual/<host>`: what a hostd found at its last pass; it disappears with the lease of the hostd."""

    version: str
    time: float
    services: dict[str, ServiceReport] = Field(default_factory=dict)
    member: str = Field(default="", description="the id of this PC's member of etcd, in hexadecimal digits")
    lost_member: str = Field(default="", description="a member of this PC whose data are lost: it must be removed")
    problems: tuple[str, ...] = ()
    certificate_ends: float | None = None


def url_host(address: str) -> str:
    """The address as the host of a URL."""
    return f"[{address}]" if ":" in address else address
