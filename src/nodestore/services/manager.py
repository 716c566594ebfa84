"""`ServiceDefinition`: what a service is; `ServiceManager`: what hostd needs of the system that runs services.

hostd is level-triggered: it compares what should run with `status`, and repeats what is not so. So every method is
idempotent, and may be repeated after a crash at any point. A method returns once the system has done it, or raises
NodectlError with one line within a bounded time. A manager never decides by itself which services there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Literal, Protocol

ServiceState = Literal["absent", "stopped", "starting", "running", "stopping", "failed"]
"""`absent`: not installed. `failed`: it ended by itself, and the manager does not start it again, or not yet."""


@dataclass(frozen=True, slots=True)
class ServiceDirectory:
    """A directory that the service uses. The manager makes it. If `writable`, it belongs to the service's user."""

    path: PurePath
    writable: bool = True


Rights = Literal["least", "programs", "host"]
"""What the service may do on the PC. `least`: its own directories and the network. `programs`: what the programs that
it runs need, except to change the kernel. `host`: change the PC's services, keys and installed programs, as root."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What the service may use. None: no limit by the manager. open_files_max: up to where a program that the service
    runs may raise `open_files`; None: not at all."""

    memory_bytes: int | None = None
    open_files: int | None = None
    tasks: int | None = None
    open_files_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    """One service. A manager ignores what its system does not have, such as limits of plain processes.

    name: unique on the PC, such as `nodectl-etcd`. argv: the program itself with its full path, not a launcher that
    starts another process. env: added to a small environment of the system. user: the system user; None: that of hostd.
    readable: files and directories, with what is in them, that only this user may read. notify: the program reports by
    NOTIFY_SOCKET when it is ready. watchdog_s: the program reports at least this often that it lives. stop_timeout_s:
    the program is killed this long after the request to stop. log: the file of its output, if the system keeps none.
    env_file: a file with further variables, which must exist. reloads: SIGHUP makes the program read its files again.
    restart_s: the pause before a program that ended in any way is started again. stops_before: services that must run
    while this one stops; they also start before it, and it does not wait until they are ready. nice,
    oom_score_adjust, first_io: how it is preferred to other programs of the PC, and whether its disk access is too.
    """

    name: str
    description: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    directories: tuple[ServiceDirectory, ...] = ()
    readable: tuple[PurePath, ...] = ()
    working_directory: PurePath | None = None
    notify: bool = False
    watchdog_s: float | None = None
    limits: ServiceLimits = ServiceLimits()
    stop_timeout_s: float = 20.0
    log: PurePath | None = None
    env_file: PurePath | None = None
    rights: Rights = "least"
    reloads: bool = False
    restart_s: float = 1.0
    stops_before: tuple[str, ...] = ()
    nice: int = 0
    oom_score_adjust: int = 0
    first_io: bool = False

    @property
    def fingerprint(self) -> str:
        """A text that differs between definitions that differ, the same in each process and release."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What the system says of a service. detail: why it is in this state, for people; empty if there is no reason."""

    state: ServiceState
    pid: int | None = None
    detail: str = ""

    @property
    def is_running(self) -> bool:
        return self.state in ("starting", "running")


class ServiceManager(Protocol):
    """Installs, starts, stops and removes services. All methods are idempotent and raise NodectlError."""

    async def install(self, definition: ServiceDefinition) -> bool:
        """Install the service, or replace its definition; return whether anything changed. It starts at boot.

        A service that runs keeps running with its former definition until `restart`.
        """
        ...

    async def start(self, name: str) -> None:
        """Start the service unless it runs. Returns when the system has started it; it need not be ready."""
        ...

    async def stop(self, name: str) -> None:
        """Stop the service if it runs; return when it has ended. It starts again at the next boot."""
        ...

    async def restart(self, name: str) -> None:
        """Stop the service if it runs, and start it with its present definition."""
        ...

    async def status(self, name: str) -> ServiceStatus:
        """The state of the service. `absent` if it is not installed."""
        ...

    async def remove(self, name: str) -> None:
        """Stop the service and remove its definition. Its directories and logs stay."""
        ...
