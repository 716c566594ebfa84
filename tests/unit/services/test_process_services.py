"""Services as plain processes: idempotent methods, a crash of the manager at any point, and processes that hang."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nodestore.errors import Invalid
from nodestore.processes import child_processes
from nodestore.services.manager import ServiceDefinition, ServiceDirectory
from nodestore.services.processes import ProcessServices

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"


def _definition(tmp_path: Path, *, code: str = "import time; time.sleep(99)", name: str = "one") -> ServiceDefinition:
    return ServiceDefinition(
        name=name,
        description="a test",
        argv=(sys.executable, "-c", code),
        directories=(ServiceDirectory(tmp_path / "data"),),
        stop_timeout_s=0.3,
        log=tmp_path / "log" / f"{name}.log",
    )


@pytest.fixture
def services(tmp_path: Path) -> Iterator[ProcessServices]:
    manager = ProcessServices(tmp_path / "services")
    yield manager
    for path in (tmp_path / "services").glob("*.json"):
        asyncio.run(manager.remove(path.stem))


async def test_a_service_is_installed_started_stopped_and_removed(services: ProcessServices, tmp_path: Path) -> None:
    assert (await services.status("one")).state == "absent"
    assert await services.install(_definition(tmp_path))
    assert not await services.install(_definition(tmp_path))
    assert (await services.status("one")).state == "stopped"
    await services.start("one")
    first = await services.status("one")
    await services.start("one")
    assert (await services.status("one")) == first
    assert first.is_running
    assert (tmp_path / "data").is_dir()
    await services.stop("one")
    await services.stop("one")
    assert (await services.status("one")).state == "stopped"
    assert first.pid is not None
    assert child_processes.identify(first.pid) is None
    await services.remove("one")
    await services.remove("one")
    assert (await services.status("one")).state == "absent"


async def test_another_manager_finds_what_the_first_one_started(services: ProcessServices, tmp_path: Path) -> None:
    await services.install(_definition(tmp_path))
    await services.start("one")
    second = ProcessServices(tmp_path / "services")
    assert await second.status("one") == await services.status("one")
    await second.stop("one")
    assert (await services.status("one")).state == "stopped"


async def test_a_process_that_was_started_but_not_recorded_is_found(
    services: ProcessServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager dies between the start of the process and the record of it."""
    await services.install(_definition(tmp_path))
    save, saved = ProcessServices._save, 0

    def save_once(self: ProcessServices, name: str, record: object) -> None:
        nonlocal saved
        saved += 1
        if saved > 1:
            raise SystemExit
        save(self, name, record)  # type: ignore[arg-type]

    monkeypatch.setattr(ProcessServices, "_save", save_once)
    with pytest.raises(SystemExit):
        await services.start("one")
    monkeypatch.undo()
    [running] = _running(tmp_path)
    again = ProcessServices(tmp_path / "services")
    await again.start("one")
    assert _running(tmp_path) == [running]
    assert (await again.status("one")).pid == running


async def test_a_service_whose_process_died_has_failed_and_starts_again(
    services: ProcessServices, tmp_path: Path
) -> None:
    await services.install(_definition(tmp_path))
    await services.start("one")
    pid = (await services.status("one")).pid
    process = psutil.Process(pid)
    process.kill()
    psutil.wait_procs([process], 5)
    found = await services.status("one")
    assert found.state == "failed"
    assert "one.log" in found.detail
    await services.start("one")
    assert (await services.status("one")).state == "running"


async def test_a_process_that_ignores_the_request_to_stop_is_killed(services: ProcessServices, tmp_path: Path) -> None:
    await services.install(_definition(tmp_path, code=_STUBBORN))
    await services.start("one")
    log = tmp_path / "log" / "one.log"
    async with asyncio.timeout(20):
        while not log.exists() or b"1" not in log.read_bytes():
            await asyncio.sleep(0.01)
    await services.stop("one")
    assert (await services.status("one")).state == "stopped"
    assert _running(tmp_path) == []


async def test_a_new_definition_is_used_from_the_restart_on(services: ProcessServices, tmp_path: Path) -> None:
    await services.install(_definition(tmp_path))
    await services.start("one")
    before = await services.status("one")
    assert await services.install(_definition(tmp_path, code="import time; time.sleep(98)"))
    assert await services.status("one") == before
    await services.restart("one")
    pid = (await services.status("one")).pid
    assert "time.sleep(98)" in psutil.Process(pid).cmdline()[-1]


async def test_a_service_that_is_not_installed_cannot_be_started(services: ProcessServices) -> None:
    with pytest.raises(Invalid, match="there is no service other"):
        await services.start("other")


def _running(tmp_path: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("NODECTL_SERVICE") == str(tmp_path / "services" / "one.json"):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
