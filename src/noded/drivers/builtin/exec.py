"""Driver `exec`: run a command on each change, and once after noded's start.

The command gets the node's document as JSON on stdin. What it prints, one JSON object or nothing, is what the node's
status shows as actual. Exit code 0 is success; with any other the last line of its stderr is the error, and it is run
again with growing pauses. When noded is killed, the command is too, as with driver `process`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from pydantic import Field

from noded.drivers.contract import Actual, Context, DriverAction, DriverError, parse_settings
from noded.drivers.support import command, leftovers, scripted
from noded.drivers.support.command import STDOUT_BYTES_MAX, Argv, EnvironmentName, Text
from nodestore.errors import Garbage
from nodestore.schema.models import Spec
from nodestore.support import jsonio


class ExecSettings(scripted.ActionSettings):
    """The settings of the driver in an inventory."""

    argv: Argv = Field(description='command and arguments; "{python}" is the Python noded runs on')
    env: dict[EnvironmentName, Text] = Field(default_factory=dict, description="added to noded's own environment")
    cwd: Text = Field(default=".", description="working directory, relative to noded's work directory")
    timeout_s: float = Field(default=60.0, gt=0, le=3_600, description="then it is killed with all it has started")


class ExecDriver:
    """See the module's text. While a command runs, a newer desired state waits, for `timeout_s` at most."""

    settle_s = 0.0

    def __init__(self, context: Context) -> None:
        self._context = context
        self._state: jsonio.Document = {}
        self._settings: ExecSettings | None = None

    async def inspect(self) -> Actual:
        return Actual(self._state)

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        settings = parse_settings(ExecSettings, spec.settings)
        await self.stop()
        self._settings = settings
        try:
            finished = await command.run(
                settings.argv,
                cwd=command.make_directory(self._context, settings.cwd),
                env=command.environment(self._context, settings.env),
                timeout_s=settings.timeout_s,
                stdin=jsonio.dumps(spec.document),
            )
        finally:
            # What hangs in the kernel cannot be ended; the next run says so. All that the command has started goes
            # with it: a service that is to stay belongs under driver `process`.
            with contextlib.suppress(DriverError):
                await leftovers.end(self._context)
        if finished.problem is not None:
            raise DriverError(finished.problem)
        self._state = _object(finished.stdout)

    async def stop(self) -> None:
        self._settings = None
        await leftovers.end(self._context)

    @property
    def actions(self) -> Mapping[str, DriverAction]:
        settings = self._settings
        if settings is None:
            return {}
        offered = scripted.configured_actions(settings, self._context, settings.cwd, settings.env)
        return {name: replace(action, run=self._with_cleanup(action.run)) for name, action in offered.items()}

    def _with_cleanup(
        self, run: Callable[[jsonio.Document], Awaitable[jsonio.Json]]
    ) -> Callable[..., Awaitable[jsonio.Json]]:
        """All that it has started ends with it, as with `apply`."""

        async def run_alone(args: jsonio.Document) -> jsonio.Json:
            try:
                return await run(args)
            finally:
                with contextlib.suppress(DriverError):
                    await leftovers.end(self._context)

        return run_alone


def _object(stdout: bytes) -> jsonio.Document:
    if len(stdout) > STDOUT_BYTES_MAX:
        raise DriverError(f"the command printed more than {STDOUT_BYTES_MAX} bytes")
    if not stdout.strip():
        return {}
    try:
        value = jsonio.loads(stdout, "what the command printed")
    except Garbage as error:
        raise DriverError(error.message) from None
    if not isinstance(value, dict):
        raise DriverError("what the command printed is not a JSON object")
    return value
