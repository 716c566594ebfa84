"""`cluster.json`: the processes and ports of a cluster, so that the next `up` starts the same cluster again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.schema.models import Stored, decode
from nodestore.support.atomic_files import write_atomic
from nodestore.support.boot import kernel_boot_id

FILE = "cluster.json"

Program = Literal["etcd", "masterd", "noded"]


class Process(BaseModel):
    """A started process, identified by its pid, its creation time and the boot of the system."""

    pid: int
    created: float
    boot: str = Field(description="the kernel's boot id on Linux, where creation times depend on it; else empty")
    argv: list[str]
    env: dict[str, str] = Field(default_factory=dict, description="variables added to the inherited environment")

    @property
    def identity(self) -> child_processes.Identity:
        return child_processes.Identity(self.pid, self.created)

    @property
    def alive(self) -> bool:
        return self.boot == kernel_boot_id() and child_processes.is_alive(self.identity)


class Part(BaseModel):
    """One process of the cluster, running or not."""

    program: Program
    ports: dict[str, int] = Field(default_factory=dict)
    process: Process | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.alive


class Record(Stored):
    """The content of `cluster.json`."""

    cluster: str
    token: str = Field(description="etcd's --initial-cluster-token: unique to each directory")
    unsafe_no_fsync: bool = False
    tls: bool = Field(default=False, description="whether all connections use TLS, with certificates in pki/")
    parts: dict[str, Part] = Field(default_factory=dict)

    def parts_of(self, program: Program) -> dict[str, Part]:
        return {name: part for name, part in self.parts.items() if part.program == program}

    @property
    def ports(self) -> list[int]:
        return [port for part in self.parts.values() for port in part.ports.values()]


def load(directory: Path) -> Record | None:
    """Return the record in `directory`; None if there is none. Raises NodectlError if it is not readable."""
    path = directory / FILE
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodectlError(f"{path}: {error.strerror or error}") from None
    return decode(Record, raw, str(path))


def save(directory: Path, record: Record) -> None:
    """Replace the file atomically: a concurrent reader sees the old or the new content."""
    write_atomic(directory / FILE, (record.model_dump_json(indent=1) + "\n").encode())
