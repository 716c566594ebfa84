"""Driver `exec`: run a command on each change, and once after noded's start.

The command gets the node's document as JSON on stdin. What it prints, one JSON object or nothing, is what the node's
status shows as actual. Exit code 0 is success; with any other the last line of its stderr is the error, and it is run
again with growing pauses. When noded is killed, the command is too, as with driver `process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from pydantic import Field

from noded.drivers import Actual, Context, DriverError, Settings, leftovers, parse_settings
from noded.drivers.output import ended, how_it_ended, last_line
from noded.drivers.process import EnvironmentName, Text
from nodestore import jsonio, procs
from nodestore.errors import Garbage, NodectlError
from nodestore.models import Spec

STDOUT_BYTES_MAX = 64 << 10
_STDERR_BYTES_KEPT = 4 << 10
_CLOSE_WAIT_S = 1.0


class ExecSettings(Settings):
    """The settings of the driver in an inventory."""

    argv: tuple[Text, ...] = Field(
        min_length=1, max_length=1_000, description='command and arguments; "{python}" is the Python noded runs on'
    )
    env: dict[EnvironmentName, Text] = Field(default_factory=dict, description="added to noded's own environment")
    cwd: Text = Field(default=".", description="working directory, relative to noded's work directory")
    timeout_s: float = Field(default=60.0, gt=0, le=3_600, description="then it is killed with all it has started")


class ExecDriver:
    """See the module's text. While a command runs, a newer desired state waits, for `timeout_s` at most."""

    settle_s = 0.0

    def __init__(self, context: Context) -> None:
        self._context = context
        self._state: jsonio.Document = {}

    async def inspect(self) -> Actual:
        return Actual(self._state)

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        settings = parse_settings(ExecSettings, spec.settings)
        await self.stop()
        child = await self._start(settings)
        try:
            async with asyncio.timeout(settings.timeout_s):
                code, stdout, stderr = await _converse(child, jsonio.dumps(spec.document))
        except TimeoutError:
            raise DriverError(f"the command did not end within {settings.timeout_s:g} s") from None
        finally:
            # What hangs in the kernel cannot be ended; the next run says so. All that the command has started goes
            # with it: a service that is to stay belongs under driver `process`.
            with contextlib.suppress(NodectlError, DriverError):
                child.kill_tree()
                await child.stop(0)
                await self.stop()
        if code != 0:
            raise DriverError(last_line(stderr) or f"the command {how_it_ended(code)}")
        self._state = _object(stdout)

    async def stop(self) -> None:
        await leftovers.end(self._context)

    async def _start(self, settings: ExecSettings) -> procs.Child:
        cwd = self._context.work_dir / settings.cwd
        argv = [sys.executable if part == "{python}" else part for part in settings.argv]
        environment = {
            **os.environ,
            **settings.env,
            "NODECTL_NODE": self._context.node,
            leftovers.VARIABLE: leftovers.marker(self._context),
        }
        try:
            if not Path(settings.cwd).is_absolute():
                cwd.mkdir(parents=True, exist_ok=True)
            return await procs.spawn(
                argv,
                cwd=cwd,
                env=environment,
                stdin=procs.PIPE,
                stdout=procs.PIPE,
                stderr=procs.PIPE,
                die_with_parent=True,
            )
        except (NodectlError, OSError) as error:
            raise DriverError(str(error)) from None


async def _converse(child: procs.Child, document: bytes) -> tuple[int, bytes, bytes]:
    """Feed it, listen until it ends: exit code, stdout, the end of stderr. DriverError when it says too much."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    talk = [
        asyncio.ensure_future(_feed(child.stdin, document)),
        asyncio.ensure_future(_collect(child.stdout, STDOUT_BYTES_MAX)),
        asyncio.ensure_future(_keep_end(child.stderr)),
    ]
    _feeding, stdout, stderr = talk
    try:
        code = await ended(child)
        # what it has started may hold its output open for ever: that is not waited for
        await asyncio.wait({stdout, stderr}, timeout=_CLOSE_WAIT_S)
        if not (stdout.done() and stderr.done()):
            child.kill_tree()
        return code, await stdout, await stderr
    finally:
        for part in talk:
            part.cancel()
        await asyncio.gather(*talk, return_exceptions=True)


async def _feed(stream: asyncio.StreamWriter, document: bytes) -> bytes:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read it
        stream.write(document)
        await stream.drain()
        stream.close()
        await stream.wait_closed()
    return b""


async def _collect(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    """All of it; what exceeds `bytes_max` by one byte or more is read and dropped, and makes it too long."""
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept = (kept + chunk)[: bytes_max + 1]
    return kept


async def _keep_end(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept = (kept + chunk)[-_STDERR_BYTES_KEPT:]
    return kept


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
