"""Services as plain processes: for containers, development and tests, where no systemd and no NSSM is.

The processes outlive the manager that started them, so a crash of hostd stops nothing. A file for each service records
its definition and its process (pid, creation time and boot), so that the next manager finds it and none runs twice. A
manager that dies between the start and the record leaves a process that the record does not name: the record of the
intention is written before, and the next `start` finds that process by its mark in the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import psutil

from nodestore.errors import Invalid, NodectlError, TimedOut
from nodestore.processes import child_processes
from nodestore.processes.child_processes import Identity
from nodestore.services.manager import ServiceDefinition, ServiceStatus
from nodestore.support.atomic_files import write_atomic
from nodestore.support.boot import kernel_boot_id

MARK = "NODECTL_SERVICE"
"""The variable in the environment of each process: the path of the service's record."""
_POLL_S = 0.02
_KILL_TIMEOUT_S = 10.0
_INHERITED = ("PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "SYSTEMROOT", "TEMP", "TMP", "NODECTL_ALLOW_OLD_ETCD")


@dataclass(frozen=True, slots=True)
class _Record:
    """What the file of one service holds. `wanted`: it was started and not stopped since."""

    fingerprint: str
    argv: tuple[str, ...]
    env: dict[str, str]
    working_directory: str | None
    directories: tuple[str, ...]
    log: str | None
    stop_timeout_s: float
    wanted: bool = False
    pid: int | None = None
    created: float = 0.0
    boot: str = ""

    @property
    def identity(self) -> Identity | None:
        """The recorded process, if it still runs."""
        if self.pid is None or self.boot != kernel_boot_id():
            return None
        identity = Identity(self.pid, self.created)
        return identity if child_processes.is_alive(identity) else None


class ProcessServices:
    """A `ServiceManager` whose services are processes of this PC. `directory`: for the records."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def install(self, definition: ServiceDefinition) -> bool:
        found = self._load(definition.name)
        wanted = _record_of(definition)
        if found is not None and found.fingerprint == wanted.fingerprint:
            return False
        if found is not None:
            wanted = replace(wanted, wanted=found.wanted, pid=found.pid, created=found.created, boot=found.boot)
        self._save(definition.name, wanted)
        return True

    async def start(self, name: str) -> None:
        record = self._installed(name)
        if record.identity is not None:
            if not record.wanted:
                self._save(name, replace(record, wanted=True))
            return
        self._save(name, replace(record, wanted=True))
        found = self._unrecorded(name)
        if found is None:
            found = await asyncio.to_thread(self._spawn, name, record)
        started = replace(record, wanted=True, pid=found.pid, created=found.created, boot=kernel_boot_id())
        self._save(name, started)

    async def stop(self, name: str) -> None:
        record = self._load(name)
        if record is None:
            return
        if record.wanted:
            self._save(name, replace(record, wanted=False))
        for identity in filter(None, (record.identity, self._unrecorded(name))):
            await _end(name, identity, record.stop_timeout_s)

    async def restart(self, name: str) -> None:
        await self.stop(name)
        await self.start(name)

    async def status(self, name: str) -> ServiceStatus:
        record = self._load(name)
        if record is None:
            return ServiceStatus("absent")
        if (identity := record.identity) is not None:
            return ServiceStatus("running", identity.pid)
        if record.wanted and record.pid is not None:
            return ServiceStatus("failed", detail=f"its process has ended{_see(record.log)}")
        return ServiceStatus("stopped")

    async def remove(self, name: str) -> None:
        await self.stop(name)
        with suppress(FileNotFoundError):
            self._path(name).unlink()

    # --- processes ---

    def _spawn(self, name: str, record: _Record) -> Identity:
        for directory in record.directories:
            Path(directory).mkdir(parents=True, exist_ok=True)
        environment = {key: value for key in _INHERITED if (value := os.environ.get(key)) is not None}
        environment |= {**record.env, MARK: str(self._path(name))}
        log = Path(record.log) if record.log is not None else self._directory / f"{name}.log"
        cwd = None if record.working_directory is None else Path(record.working_directory)
        return child_processes.spawn_detached(record.argv, cwd=cwd, env=environment, log=log)

    def _unrecorded(self, name: str) -> Identity | None:
        """A process of this service that runs, though the record does not name it: its manager died meanwhile."""
        mark = str(self._path(name))
        return next((identity for path, identity in _marked_processes() if path == mark), None)

    # --- records ---

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _installed(self, name: str) -> _Record:
        record = self._load(name)
        if record is None:
            raise Invalid(f"there is no service {name} in {self._directory}")
        return record

    def _load(self, name: str) -> _Record | None:
        path = self._path(name)
        try:
            return _decoded(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise NodectlError(f"{path} cannot be read ({error}): remove it, and end its process by hand") from None

    def _save(self, name: str, record: _Record) -> None:
        path = self._path(name)
        try:
            write_atomic(path, json.dumps(asdict(record), indent=1).encode(), 0o600)
        except OSError as error:
            raise NodectlError(f"{path} cannot be written: {error.strerror or error}") from None


def _record_of(definition: ServiceDefinition) -> _Record:
    return _Record(
        fingerprint=definition.fingerprint,
        argv=definition.argv,
        env=dict(definition.env),
        working_directory=_text(definition.working_directory),
        directories=tuple(str(item.path) for item in definition.directories),
        log=_text(definition.log),
        stop_timeout_s=definition.stop_timeout_s,
    )


def _text(path: PurePath | None) -> str | None:
    return None if path is None else str(path)


def _decoded(document: dict[str, Any]) -> _Record:
    return _Record(**{**document, "argv": tuple(document["argv"]), "directories": tuple(document["directories"])})


def _see(log: str | None) -> str:
    return "" if log is None else f": see {log}"


def _marked_processes() -> Iterator[tuple[str, Identity]]:
    """The processes whose environment has the mark, with its value. Those of other users cannot be read."""
    for process in psutil.process_iter():
        mark = _mark_of(process)
        if mark is None or process.pid == os.getpid() or mark == _mark_of_parent(process):
            continue  # the last: a process that the service itself has started
        if (identity := child_processes.identify(process.pid)) is not None:
            yield mark, identity


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None


def _mark_of_parent(process: psutil.Process) -> str | None:
    try:
        parent = process.parent()
    except (psutil.Error, OSError):
        return None
    return None if parent is None else _mark_of(parent)


async def _end(name: str, identity: Identity, timeout_s: float) -> None:
    """Request the end, and kill the process and its children after `timeout_s`."""
    child_processes.terminate(identity)
    if await _has_ended(identity, timeout_s):
        return
    await asyncio.to_thread(child_processes.kill_tree, identity)
    if not await _has_ended(identity, _KILL_TIMEOUT_S):
        raise TimedOut(f"{name} (pid {identity.pid}) was killed and does not end: it hangs in the kernel")


async def _has_ended(identity: Identity, timeout_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while child_processes.is_alive(identity):
                await asyncio.sleep(_POLL_S)
    return not child_processes.is_alive(identity)
