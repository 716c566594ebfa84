"""Driver `exec`: runs a command on each change of the desired state, and once after noded's start.

The command reads the node's document as JSON from stdin. It prints one JSON object or nothing; the node's status shows
that as the actual state. Exit code 0 is success. After any other, the last line of stderr is the error, and the command
is run again with back-off. If noded is killed, the command is killed too, as with driver `process`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from pydantic import Field

from noded.drivers.contract import Actual, Context, DriverAction, DriverError, parse_settings
from noded.drivers.support import command, leftovers, scripted
from noded.drivers.support.command import ENVIRONMENT_TEXT, STDOUT_BYTES_MAX, Argv, Environment, Text
from nodestore.errors import Garbage
from nodestore.schema.models import Spec
from nodestore.support import jsonio


class ExecSettings(scripted.ActionSettings):
    """The driver's settings in an inventory."""

    argv: Argv = Field(description='command and arguments; "{python}" is the Python noded runs on')
    env: Environment = Field(default_factory=dict, description=ENVIRONMENT_TEXT)
    cwd: Text = Field(default=".", description="working directory, relative to noded's work directory")
    timeout_s: float = Field(
        default=60.0, gt=0, le=3_600, description="time limit; then the command and all processes it started are killed"
    )


class ExecDriver:
    """The driver `exec`. While a command runs, a newer desired state waits, for `timeout_s` at most."""

    settle_s = 0.0
    settings_model = ExecSettings

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
            # Kill what the command started: a program that is to keep running belongs under driver `process`. If a
            # process cannot be killed because it hangs in the kernel, the next apply raises the error.
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
        """Wrap `run` so that all processes which the action started are killed at its end, as by `apply`."""

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
        value = jsonio.loads(stdout, "the output of the command")
    except Garbage as error:
        raise DriverError(error.message) from None
    if not isinstance(value, dict):
        raise DriverError("the output of the command is not a JSON object")
    return value
