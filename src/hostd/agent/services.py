"""Makes services run with their present definition, or stop, and reports them. Each call may be repeated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hostd.agent.memory import HostMemory
from nodestore.errors import NodectlError
from nodestore.schema.host_models import ServiceReport
from nodestore.services.manager import ServiceDefinition, ServiceManager
from nodestore.support.backoff import grown_s

log = logging.getLogger(__name__)

_PAUSE_FIRST_S, _PAUSE_MAX_S = 1.0, 30.0
_INSTALL_EVERY_S = 30.0
_SETTLED_S = 60.0
"""A service that has run for so long has not failed: its next end is its first."""


class _Starts:
    """The starts of one service: how often it was started in a row, and from when on it may be started again."""

    def __init__(self) -> None:
        self.count, self.last = 0, float("-inf")

    def may_start(self, now: float) -> bool:
        if now - self.last > _SETTLED_S:
            self.count = 0
        pause_s = grown_s(_PAUSE_FIRST_S, _PAUSE_MAX_S, self.count - 1) if self.count else 0.0
        return now - self.last >= pause_s

    def note(self, now: float) -> None:
        self.count, self.last = self.count + 1, now


class Services:
    """The services of one PC. clock: monotonic, in seconds."""

    def __init__(
        self, manager: ServiceManager, memory: HostMemory, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._manager, self._memory, self._clock = manager, memory, clock
        self._starts: dict[str, _Starts] = {}
        self._installed: dict[str, tuple[str, float]] = {}
        self.reports: dict[str, ServiceReport] = {}

    async def ensure(self, definition: ServiceDefinition) -> None:
        """Make the service run with this definition. It is not started again before its pause is over.

        A crash between the restart and the record of it leads to one more restart.
        """
        name, fingerprint = definition.name, definition.fingerprint
        await self._install(definition)
        status = await self._manager.status(name)
        applied = self._memory.applied()
        starts = self._starts.setdefault(name, _Starts())
        is_current = applied.get(name) == fingerprint
        if status.is_running and is_current:
            pass
        elif is_current and not starts.may_start(self._clock()):
            self.reports[name] = ServiceReport(state="failed", problem=status.detail or "it ended, and waits to start")
            return
        else:
            log.info("%s: %s", name, "restart with new settings" if status.is_running else "start")
            starts.note(self._clock())
            await self._manager.restart(name)
            self._memory.save_applied({**applied, name: fingerprint})
            status = await self._manager.status(name)
        self.reports[name] = ServiceReport(state=status.state, pid=status.pid, problem=status.detail)

    async def _install(self, definition: ServiceDefinition) -> None:
        """Install what has changed; and everything now and then, because the system's own files may be changed."""
        now, installed = self._clock(), (definition.fingerprint, float("-inf"))
        known, at = self._installed.get(definition.name, installed)
        if known != definition.fingerprint or now - at >= _INSTALL_EVERY_S:
            await self._manager.install(definition)
            self._installed[definition.name] = definition.fingerprint, now

    async def stop(self, name: str) -> None:
        """Stop the service, if it is installed."""
        status = await self._manager.status(name)
        if status.state == "absent":
            self.reports.pop(name, None)
            return
        if status.is_running or status.state == "failed":
            log.info("%s: stop", name)
            await self._manager.stop(name)
        self._starts.pop(name, None)
        self.reports[name] = ServiceReport(state="stopped")

    async def stop_all(self, names: tuple[str, ...]) -> None:
        """Stop these services in order, each even if the stop of another one fails."""
        for name in names:
            try:
                await self.stop(name)
            except NodectlError as error:
                log.error("%s could not be stopped: %s", name, error)
