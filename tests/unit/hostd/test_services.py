"""Services are started once, started again with growing pauses, and restarted when their definition changes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from hostd.agent.memory import HostMemory
from hostd.agent.services import Services
from nodestore.services.manager import ServiceDefinition, ServiceStatus

_ONE = ServiceDefinition(name="one", description="a test", argv=("/bin/one",))


class _Manager:
    """A manager of services that do what the test says."""

    def __init__(self) -> None:
        self.installed: dict[str, ServiceDefinition] = {}
        self.states: dict[str, ServiceStatus] = {}
        self.restarts = 0

    async def install(self, definition: ServiceDefinition) -> bool:
        changed = self.installed.get(definition.name) != definition
        self.installed[definition.name] = definition
        return changed

    async def start(self, name: str) -> None:
        self.states[name] = ServiceStatus("running", 7)

    async def stop(self, name: str) -> None:
        self.states[name] = ServiceStatus("stopped")

    async def restart(self, name: str) -> None:
        self.restarts += 1
        await self.start(name)

    async def status(self, name: str) -> ServiceStatus:
        return self.states.get(name, ServiceStatus("stopped" if name in self.installed else "absent"))

    async def remove(self, name: str) -> None:
        self.installed.pop(name, None)


class _Case:
    def __init__(self, directory: Path) -> None:
        self.now, self.manager, self.memory = 1_000.0, _Manager(), HostMemory(directory)
        self.services = self.new_services()

    def new_services(self) -> Services:
        """As after a restart of hostd."""
        return Services(self.manager, self.memory, lambda: self.now)

    def fail(self) -> None:
        self.manager.states["one"] = ServiceStatus("failed", detail="it has ended")


async def test_a_service_that_runs_as_wanted_is_left_alone(tmp_path: Path) -> None:
    case = _Case(tmp_path)
    for services in (case.services, case.services, case.new_services()):
        await services.ensure(_ONE)
        assert services.reports["one"].state == "running"
    assert case.manager.restarts == 1


async def test_a_changed_definition_restarts_the_service_once(tmp_path: Path) -> None:
    case = _Case(tmp_path)
    await case.services.ensure(_ONE)
    for _ in range(2):
        await case.services.ensure(replace(_ONE, argv=("/bin/two",)))
    assert case.manager.restarts == 2


async def test_a_restart_that_was_not_recorded_is_repeated(tmp_path: Path) -> None:
    """hostd dies after it has installed a new definition: the service may still run with the former one."""
    case = _Case(tmp_path)
    await case.services.ensure(_ONE)
    await case.manager.install(replace(_ONE, argv=("/bin/two",)))
    await case.new_services().ensure(replace(_ONE, argv=("/bin/two",)))
    assert case.manager.restarts == 2


async def test_a_service_that_fails_is_started_again_with_growing_pauses(tmp_path: Path) -> None:
    case = _Case(tmp_path)
    await case.services.ensure(_ONE)
    starts = []
    for second in range(100):
        case.fail()
        case.now = 1_000.0 + second
        await case.services.ensure(_ONE)
        if case.services.reports["one"].state == "running":
            starts.append(second)
        else:
            assert case.services.reports["one"].problem == "it has ended"
    assert [after - before for before, after in itertools.pairwise(starts)] == [2, 4, 8, 16, 30, 30]


async def test_a_service_that_ran_for_a_minute_is_started_again_at_once(tmp_path: Path) -> None:
    case = _Case(tmp_path)
    for _ in range(3):
        await case.services.ensure(_ONE)
        case.fail()
        case.now += 61.0
    assert case.manager.restarts == 3


async def test_a_service_is_stopped_only_if_it_is_installed(tmp_path: Path) -> None:
    case = _Case(tmp_path)
    await case.services.stop("one")
    assert case.services.reports == {}
    await case.services.ensure(_ONE)
    await case.services.stop("one")
    assert case.services.reports["one"].state == "stopped"
