"""Runs a configured command to its end, within a time limit, and kills the processes that it started.

If noded is killed, the command is killed too, as with driver `process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from noded.drivers.contract import Context, DriverError
from noded.drivers.support import leftovers
from noded.drivers.support.output import describe_exit_code, last_line, wait_exit_code
from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.support.tasks import owned_task

STDOUT_BYTES_MAX = 64 << 10
END_BYTES_KEPT = 8 << 10
_STDERR_BYTES_KEPT = 4 << 10
_CLOSE_WAIT_S = 1.0

Text = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=32_000)]
EnvironmentName = Annotated[str, Field(pattern=r"^[^\x00=]+$", max_length=1_000)]
Environment = dict[EnvironmentName, Text | None]
ENVIRONMENT_TEXT = "added to noded's own environment; null removes a variable of that"
Argv = Annotated[tuple[Text, ...], Field(min_length=1, max_length=1_000)]


@dataclass(frozen=True)
class FinishedCommand:
    """The result of a command.

    stdout: its first STDOUT_BYTES_MAX + 1 bytes; with `end_only` its last END_BYTES_KEPT bytes. stderr: its last
    _STDERR_BYTES_KEPT bytes.
    """

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def problem(self) -> str | None:
        """Why the command failed, in one line for people; None if it succeeded."""
        if self.code == 0:
            return None
        return last_line(self.stderr) or f"the command {describe_exit_code(self.code)}"


def resolve_python(argv: Sequence[str]) -> list[str]:
    """Return `argv` with the element "{python}" replaced by the Python that noded runs on."""
    return [sys.executable if part == "{python}" else part for part in argv]


def environment(context: Context, added: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment of a driver's child processes: noded's, `added`, the node's name and the marker of
    `leftovers`. A variable that `added` maps to None is left out."""
    own = {"NODECTL_NODE": context.node, leftovers.MARKER_VARIABLE: leftovers.marker(context)}
    merged: dict[str, str | None] = {**os.environ, **added, **own}
    return {name: value for name, value in merged.items() if value is not None}


def make_directory(context: Context, cwd: str) -> Path:
    """Return the directory `cwd`, relative to noded's work directory. Creates a relative one. Raises DriverError."""
    directory = context.work_dir / cwd
    if not Path(cwd).is_absolute():
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DriverError(f"cannot make the working directory {directory}: {error.strerror or error}") from None
    return directory


async def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_s: float,
    stdin: bytes = b"",
    end_only: bool = False,
) -> FinishedCommand:
    """Run `argv` to its end. end_only: keep only the end of its stdout.

    Raises DriverError if the command cannot be started or does not end within `timeout_s` seconds. At the end,
    also after a cancellation, the command and all processes of its POSIX session are killed. A process that has left
    that session still has the marker, so `leftovers.end` kills it.
    """
    try:
        child = await child_processes.spawn(
            resolve_python(argv),
            cwd=cwd,
            env=env,
            stdin=child_processes.PIPE,
            stdout=child_processes.PIPE,
            stderr=child_processes.PIPE,
            die_with_parent=True,
        )
    except (NodectlError, OSError) as error:
        raise DriverError(str(error)) from None
    try:
        async with asyncio.timeout(timeout_s):
            return await _communicate(child, stdin, end_only)
    except TimeoutError:
        raise DriverError(f"the command did not end within {timeout_s:g} s") from None
    finally:
        with contextlib.suppress(NodectlError):  # a process that hangs in the kernel cannot be killed
            child.kill_tree()
            await child.stop(0)


async def _communicate(child: child_processes.Child, stdin: bytes, end_only: bool) -> FinishedCommand:
    """Write stdin and read the output until the command has ended."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    transfers = [
        owned_task(_feed(child.stdin, stdin)),
        owned_task(
            _collect_end(child.stdout, END_BYTES_KEPT) if end_only else _collect(child.stdout, STDOUT_BYTES_MAX)
        ),
        owned_task(_collect_end(child.stderr, _STDERR_BYTES_KEPT)),
    ]
    _feeding, stdout, stderr = transfers
    try:
        code = await wait_exit_code(child)
        # its child processes may keep the output open for ever, so wait for a bounded time
        await asyncio.wait({stdout, stderr}, timeout=_CLOSE_WAIT_S)
        if not (stdout.done() and stderr.done()):
            child.kill_tree()
        return FinishedCommand(code, await stdout, await stderr)
    finally:
        for transfer in transfers:
            transfer.cancel()
        await asyncio.gather(*transfers, return_exceptions=True)


async def _feed(stream: asyncio.StreamWriter, content: bytes) -> bytes:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the command need not read its stdin
        stream.write(content)
        await stream.drain()
        stream.close()  # not awaited: asyncio logs an error if wait_closed of a pipe is cancelled
    return b""


async def _collect(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Read the stream to its end. Keep its first bytes_max + 1 bytes: the last shows that the stream is too long."""
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept = (kept + chunk)[: bytes_max + 1]
    return kept


async def _collect_end(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept = (kept + chunk)[-bytes_max:]
    return kept
