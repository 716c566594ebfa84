"""Driver `process`: supervises one program, which reads the node's document from a file.

The environment variable NODECTL_DOCUMENT holds the file's path, NODECTL_NODE the node's name. The file is replaced
atomically, before the program starts and on each change.

If noded itself is killed: on Linux the kernel kills the program (PR_SET_PDEATHSIG), and the next noded kills the
processes that the program started; on Windows a job object kills all of them; on other systems the next noded does.

With the setting `health`, the program is also checked periodically and restarted when it is unhealthy.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from noded.drivers.contract import Actual, Context, DriverAction, DriverError, parse_settings
from noded.drivers.support import command, leftovers, scripted
from noded.drivers.support.command import ENVIRONMENT_TEXT, Argv, Environment, Text
from noded.drivers.support.health import Health, HealthSettings
from noded.drivers.support.output import OutputCopier, describe_exit_code
from noded.drivers.support.program_run import ProgramRun
from nodestore.errors import NodectlError
from nodestore.pki.private_files import PRIVATE_MODE
from nodestore.processes import child_processes
from nodestore.processes.log_file import LogFile
from nodestore.schema.models import Spec
from nodestore.support import atomic_files, jsonio
from nodestore.support.files import owner_only
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_GRACE_S = 5.0

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")]


class ProcessSettings(scripted.ActionSettings):
    """The driver's settings in an inventory."""

    argv: Argv = Field(description='program and arguments; "{python}" is the Python noded runs on')
    env: Environment = Field(default_factory=dict, description=ENVIRONMENT_TEXT)
    cwd: Text = Field(default=".", description="working directory, relative to noded's work directory")
    grace_s: float = Field(
        default=_GRACE_S, ge=0, le=300, description="seconds from the stop signal until the program is killed"
    )
    settle_s: float = Field(
        default=10.0,
        ge=0,
        le=3_600,
        description="seconds that the program must run until it counts as ready and earlier failures are forgotten",
    )
    document_file: FileName = Field(
        default="document.json", description="file with the document, in noded's work directory"
    )
    on_change: Literal["reload", "restart"] = Field(
        default="reload",
        description="reload: the program reads its document file again by itself; restart: it is restarted",
    )
    reload_signal: Literal["SIGHUP", "SIGUSR1", "SIGUSR2"] | None = Field(
        default=None,
        description="POSIX only: sent when the document has changed, as soon as the program has a handler for it",
    )
    log_file: FileName | None = Field(
        default="program.log", description="file with the program's output, in noded's work directory"
    )
    log_bytes_max: int = Field(
        default=1 << 20, ge=4_096, le=1 << 30, description="size at which the file is renamed to <name>.1"
    )
    health: HealthSettings | None = Field(default=None, description="periodic check of the program")

    @model_validator(mode="after")
    def _files_differ(self) -> Self:
        if self.log_file is not None:
            logs = {self.log_file.casefold(), f"{self.log_file}.1".casefold()}
            if self.document_file.casefold() in logs:
                raise ValueError(f"document_file cannot be {self.document_file}: the program's output is put there")
        return self


def _runs_alike(one: ProcessSettings, other: ProcessSettings | None) -> bool:
    """Whether a program that was started with `other` need not be restarted for `one`."""
    changes = {"grace_s": 0.0, "settle_s": 0.0}
    return other is not None and scripted.same_but_for_actions(
        one.model_copy(update=changes), other.model_copy(update=changes)
    )


class ProcessDriver:
    """The driver `process`."""

    settings_model = ProcessSettings

    def __init__(self, context: Context) -> None:
        self.settle_s = 0.0
        self._context = context
        self._settings: ProcessSettings | None = None
        self._document: bytes = b""
        self._document_hash = ""
        self._run: ProgramRun | None = None
        self._starts = 0
        self._exit_code: int | None = None
        self._log: LogFile | None = None
        self._log_dropped = RateLimitedLog(log, 600.0)

    async def inspect(self) -> Actual:
        self._report_dropped_output()
        run = self._run
        if run is None or self._settings is None:
            return Actual({"running": False})
        state: jsonio.Document = {
            "running": run.exit_code is None,
            "pid": run.child.pid,
            "restarts": self._starts - 1,
            "document_hash": self._document_hash,
        }
        exit_code = self._exit_code if run.exit_code is None else run.exit_code
        if exit_code is not None:
            state["exit_code"] = exit_code
        if run.exit_code is not None:
            last_line = run.output.last_line
            ended = f"the program {describe_exit_code(run.exit_code)}"
            return Actual(state, f"{ended}: {last_line}" if last_line else ended, failed=True)
        if run.health is not None:
            health = run.health
            state["health"] = health.state
            if health.error:
                state["health_error"] = health.error
            # until the program is healthy, no earlier failure is forgotten, however long the program has run
            self.settle_s = self._settings.settle_s if health.state == "healthy" else math.inf
            if run.is_unhealthy:
                return Actual(state, f"the program is unhealthy: {health.error}", failed=True)
        if run.reload_signal is not None and run.has_no_handler(self._settings.settle_s):
            name = signal.Signals(run.reload_signal).name
            return Actual(state, f"the program has no handler for {name}, which would end it: not sent", failed=True)
        unsettled_s, waits_for = run.settling(self._settings.settle_s)
        drift = self._drift(run, self._settings)
        return Actual(state, drift, unsettled_s=unsettled_s, waits_for=waits_for)

    def _drift(self, run: ProgramRun, settings: ProcessSettings) -> str | None:
        if run.has_lost_cwd:
            return "the program's working directory was removed"
        content = atomic_files.read_bounded(self._path(settings))
        if content is None:
            return f"{settings.document_file} is missing"
        return None if content == self._document else f"{settings.document_file} was altered"

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        settings = parse_settings(ProcessSettings, spec.settings)
        if settings.reload_signal is not None and not hasattr(signal, settings.reload_signal):
            raise DriverError(
                f"driver setting reload_signal: this system has no {settings.reload_signal}", retryable=False
            )
        document = jsonio.dumps(spec.document)
        changed = document != self._document
        run = self._run
        keep = (
            run is not None
            and run.exit_code is None
            and not run.is_unhealthy
            and not run.has_lost_cwd
            and not run.has_no_handler(settings.settle_s)
            and _runs_alike(settings, self._settings)
            and not (changed and settings.on_change == "restart")
        )
        await self._write_document(settings, document)
        if not keep:
            self._check_program(settings)
            await self._end()
        self._settings, self._document, self._document_hash = settings, document, jsonio.digest(spec.document)
        self.settle_s = settings.settle_s
        if not keep:
            await self._start(settings)
        elif changed and settings.reload_signal is not None and run is not None:
            run.request_reload(getattr(signal, settings.reload_signal), self._context, settings.settle_s)

    async def _write_document(self, settings: ProcessSettings, document: bytes) -> None:
        """Write the document before anything is stopped, and only if it differs.

        So if the disk is full or read-only, a program whose document is already there can start, and one that runs is
        not stopped.
        """
        path = self._path(settings)
        with contextlib.suppress(OSError):
            owner_only.restrict(path)  # an earlier release made it for everybody
        if atomic_files.read_bounded(path) != document:
            try:
                # it may hold secrets, and the program that reads it runs as noded's user
                atomic_files.write_atomic(path, document, PRIVATE_MODE)
            except OSError as error:
                await self._start_with_previous_document()
                raise DriverError(f"cannot write {settings.document_file}: {error.strerror or error}") from None

    def _check_program(self, settings: ProcessSettings) -> None:
        """Check all else that a start needs, before anything is stopped. Raises DriverError."""
        cwd = command.make_directory(self._context, settings.cwd)
        environment = command.environment(self._context, self._added_environment(settings))
        try:
            child_processes.check_program(command.resolve_python(settings.argv), cwd=cwd, env=environment)
        except NodectlError as error:
            raise DriverError(str(error)) from None

    async def _start_with_previous_document(self) -> None:
        """If the program has ended and the document that it last had is still there, start it again with that."""
        before, run = self._settings, self._run
        if before is None or run is None or run.exit_code is None:
            return
        if atomic_files.read_bounded(self._path(before)) == self._document:
            await self._end()
            await self._start(before)

    async def stop(self) -> None:
        await self._end()
        self._settings = None
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def actions(self) -> Mapping[str, DriverAction]:
        settings = self._settings
        if settings is None:
            return {}
        return scripted.configured_actions(settings, self._context, settings.cwd, self._added_environment(settings))

    @property
    def log_files(self) -> Sequence[Path] | None:
        if self._settings is None:
            return None
        name = self._settings.log_file
        return () if name is None else tuple(self._context.work_dir / file for file in (name, f"{name}.1"))

    async def _end(self) -> None:
        """Stop the program, its child processes, and the processes that an earlier noded left."""
        run = self._run
        if run is not None:
            await run.end_checks()
            try:
                self._exit_code = await run.child.stop(self._settings.grace_s if self._settings else _GRACE_S)
            except NodectlError as error:
                raise DriverError(error.message) from None
            self._run = None
        await leftovers.end(self._context)

    async def _start(self, settings: ProcessSettings) -> None:
        output = OutputCopier(self._log_file(settings))
        cwd = command.make_directory(self._context, settings.cwd)
        environment = command.environment(self._context, self._added_environment(settings))
        try:
            pipe = output.open()
            try:
                child = await child_processes.spawn(
                    command.resolve_python(settings.argv), cwd=cwd, env=environment, stdout=pipe, die_with_parent=True
                )
            finally:
                os.close(pipe)
        except (NodectlError, OSError) as error:
            raise DriverError(str(error)) from None
        self._starts += 1
        self._run = ProgramRun(child, output, cwd, self._health(settings, cwd, environment))
        self._run.start_watching(self._context)

    def _log_file(self, settings: ProcessSettings) -> LogFile | None:
        """Return the log file of the settings: the present one if it is the same."""
        path = None if settings.log_file is None else self._context.work_dir / settings.log_file
        if self._log is not None and self._log.path != path:
            self._log.close()
            self._log = None
        if path is not None and self._log is None:
            self._log = LogFile(path, settings.log_bytes_max)
        if self._log is not None:
            self._log.bytes_max = settings.log_bytes_max
        return self._log

    def _report_dropped_output(self) -> None:
        if self._log is not None and self._log.dropped_bytes:
            line = f"{self._log.path} takes no data: output of the program is dropped"
            self._log_dropped.log(logging.WARNING, line)

    def _health(self, settings: ProcessSettings, cwd: Path, environment: dict[str, str]) -> Health | None:
        if settings.health is None:
            return None

        async def run(argv: Sequence[str], timeout_s: float) -> command.FinishedCommand:
            return await command.run(argv, cwd=cwd, env=environment, timeout_s=timeout_s)

        return Health(settings.health, run, self._context.wake)

    def _added_environment(self, settings: ProcessSettings) -> dict[str, str | None]:
        """The variables added to noded's own environment."""
        return {**settings.env, "NODECTL_DOCUMENT": str(self._path(settings))}

    def _path(self, settings: ProcessSettings) -> Path:
        return self._context.work_dir / settings.document_file
