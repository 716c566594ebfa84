"""Services on Windows by NSSM, which runs a program as a service. Each call of nssm.exe has a deadline.

NSSM keeps a service's settings in the registry. `install` writes them one by one, and at the end the fingerprint of the
definition, in the description: an installation that was interrupted has no valid fingerprint and is done again.

NSSM writes UTF-16 into a pipe. Of what it says, only words in ASCII are used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nodestore.errors import Invalid, NodectlError, TimedOut
from nodestore.processes import child_processes
from nodestore.processes.child_processes import Completed
from nodestore.services.manager import ServiceDefinition, ServiceState, ServiceStatus
from nodestore.services.nssm_settings import check_service_name, settings_of

Run = Callable[[Sequence[str], float], Completed]

NO_SUCH_SERVICE = 3
"""Exit code of nssm if it cannot open the service."""
_CALL_S = 60.0
_END_S = 330.0
_POLL_S = 0.1
_STATES: dict[str, ServiceState] = {
    "SERVICE_STOPPED": "stopped", "SERVICE_START_PENDING": "starting", "SERVICE_STOP_PENDING": "stopping",
    "SERVICE_RUNNING": "running", "SERVICE_CONTINUE_PENDING": "starting", "SERVICE_PAUSE_PENDING": "stopping",
    "SERVICE_PAUSED": "failed",
}  # fmt: skip
"""NSSM pauses a service whose program ends again and again, until it starts the program again."""


def run_program(argv: Sequence[str], timeout_s: float) -> Completed:
    """Run a program to its end."""
    return child_processes.run(argv, timeout_s=timeout_s)


class NssmServices:
    """A `ServiceManager` whose services are run by nssm.exe. Needs the rights of an administrator.

    nssm: the program. run: runs a program with a time limit in seconds.
    """

    def __init__(self, nssm: Path, run: Run = run_program) -> None:
        self._nssm, self._run = nssm, run

    async def install(self, definition: ServiceDefinition) -> bool:
        name = check_service_name(definition.name)
        settings = settings_of(definition)
        description = f"{definition.description} [{definition.fingerprint}]"
        if (state := await self._state(name)) is not None and await self._description(name) == description:
            return False
        await asyncio.to_thread(_make_directories, definition)
        if state is None:
            await self._checked("install", name, definition.argv[0])
        else:
            await self._checked("set", name, "Description", definition.description)  # no longer the former one
        for setting, values in settings:
            if values:
                await self._checked("set", name, setting, *values)
            else:
                await self._checked("reset", name, setting)
        await self._checked("set", name, "Description", description)
        return True

    async def start(self, name: str) -> None:
        state = await self._state(name)
        if state is None:
            raise Invalid(f"there is no service {name}")
        if state in ("running", "starting"):
            return
        if state == "stopping":
            await self._wait(name, ("stopped",), _END_S)
        await self._requested("start", name)

    async def stop(self, name: str) -> None:
        if await self._state(name) in (None, "stopped"):
            return
        await self._requested("stop", name)
        await self._wait(name, ("stopped",), _END_S)

    async def restart(self, name: str) -> None:
        await self.stop(name)
        await self.start(name)

    async def status(self, name: str) -> ServiceStatus:
        state = await self._state(name)
        if state is None:
            return ServiceStatus("absent")
        detail = "its program ends again and again, and is started again soon: see its log" if state == "failed" else ""
        return ServiceStatus(state, detail=detail)

    async def remove(self, name: str) -> None:
        await self.stop(name)
        if await self._state(name) is not None:
            await self._checked("remove", name, "confirm")

    # --- nssm.exe ---

    async def _state(self, name: str) -> ServiceState | None:
        """The state of the service; None if there is no such service."""
        done = await self._called("status", check_service_name(name))
        word = _ascii(done.stdout).strip()
        if word in _STATES:
            return _STATES[word]
        if done.returncode == NO_SUCH_SERVICE:
            return None
        raise NodectlError(f"nssm status {name}: {_said(done)}")

    async def _description(self, name: str) -> str:
        return _ascii((await self._called("get", name, "Description")).stdout).strip()

    async def _requested(self, verb: str, name: str) -> None:
        """Request a start or a stop. nssm may give up while Windows still carries it out: the state decides."""
        done = await self._called(verb, name)
        said = _ascii(done.stdout + done.stderr)
        if done.returncode != 0 and "PENDING" not in said:
            raise NodectlError(f"nssm {verb} {name}: {_said(done)}")

    async def _wait(self, name: str, states: tuple[ServiceState, ...], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (state := await self._state(name)) not in states:
            if state is None:
                raise NodectlError(f"{name} was removed meanwhile")
            if time.monotonic() > deadline:
                raise TimedOut(f"{name} is {state} for {timeout_s:g} s, and not {states[0]}")
            await asyncio.sleep(_POLL_S)

    async def _checked(self, *arguments: str) -> None:
        done = await self._called(*arguments)
        if done.returncode != 0:
            raise NodectlError(f"nssm {' '.join(arguments[:3])}: {_said(done)}")

    async def _called(self, *arguments: str) -> Completed:
        return await asyncio.to_thread(self._run, [str(self._nssm), *arguments], _CALL_S)


def _ascii(text: str) -> str:
    """The text without the zero bytes of UTF-16."""
    return text.replace("\0", "").lstrip("\ufffd\ufeff")


def _said(done: Completed) -> str:
    lines = [line.strip() for line in _ascii(done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[0] if lines else f"exit code {done.returncode}"


def _make_directories(definition: ServiceDefinition) -> None:
    places = [item.path for item in definition.directories]
    places += [] if definition.log is None else [definition.log.parent]
    for place in places:
        try:
            Path(place).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NodectlError(f"cannot make {place}: {error.strerror or error}") from None
