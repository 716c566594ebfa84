"""`host.json`: what this PC is. It is the last file that joining writes, so a PC without it belongs to no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from nodestore.errors import NodectlError, NotFound
from nodestore.schema.host_models import HostKind, HostPorts, url_host
from nodestore.schema.models import Stored, decode
from nodestore.support.atomic_files import write_atomic

ManagerKind = Literal["systemd", "nssm", "processes"]


class HostFile(Stored):
    """The identity of this PC, and how its services are run. Nothing in it is secret."""

    host: str
    cluster: str
    address: str
    kind: HostKind
    ports: HostPorts = HostPorts()
    manager: ManagerKind
    python: str = Field(description="the Python that runs the programs")
    etcd: str = Field(default="", description="the etcd server; empty on a PC that only runs noded")
    signers: tuple[str, ...] = Field(description="host:port of each hostd that signs")
    endpoints: tuple[str, ...] = Field(description="the members of etcd when this PC joined")
    hostd_options: tuple[str, ...] = Field(default=(), description="further options of hostd, such as --tick=2s")
    members_wanted: int = Field(default=3, description="how many members the cluster is to have; for signers")

    @property
    def own_endpoint(self) -> str:
        return f"{url_host(self.address)}:{self.ports.client}"

    @property
    def peer_url(self) -> str:
        return f"https://{url_host(self.address)}:{self.ports.peer}"


def load_host_file(path: Path) -> HostFile | None:
    """The content of the file; None if there is none. Raises NodectlError if it cannot be read."""
    try:
        return decode(HostFile, path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodectlError(f"cannot read {path}: {error.strerror or error}") from None


def require_host_file(path: Path) -> HostFile:
    """The content of the file. NotFound if this PC belongs to no cluster."""
    found = load_host_file(path)
    if found is None:
        raise NotFound(f"this PC belongs to no cluster ({path} is absent): `nodectl host init` or `nodectl host join`")
    return found


def save_host_file(path: Path, content: HostFile) -> None:
    write_json(path, content)


def write_json(path: Path, content: Stored) -> None:
    """Replace a file atomically. Raises NodectlError."""
    try:
        write_atomic(path, (content.model_dump_json(indent=1) + "\n").encode(), 0o644)
    except OSError as error:
        raise NodectlError(f"{path} cannot be written: {error.strerror or error}") from None
