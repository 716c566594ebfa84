"""Starts, watches and ends child processes, on Linux and on Windows.

A process is identified by its `Identity`, pid and creation time, because pids are reused. To kill a process means to
kill its whole tree. `posix` and `win32` implement what differs between the systems.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from nodestore.errors import NodectlError, TimedOut
from nodestore.support.waiting import set_within

if sys.platform == "win32":
    from nodestore.processes import win32 as system
else:
    from nodestore.processes import posix as system

__all__ = [
    "PIPE", "Child", "Completed", "EndedAtOnce", "Identity", "check_program", "handles_signal", "identify", "is_alive",
    "kill_tree", "resume", "run", "spawn", "spawn_detached", "suspend", "terminate", "utf8_stdio",
]  # fmt: skip

_REAP_TIMEOUT_S = 10.0
_UNKNOWN = -1.0
_DRAIN_TIMEOUT_S = 0.5
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Identity:
    """Identifies a process uniquely: a later process with the same pid differs in `created`.

    `created` is valid only on this machine and, on Linux, until the next boot (seconds since boot). Compare it, but do
    not display it.
    """

    pid: int
    created: float


class EndedAtOnce(NodectlError):
    """A program was started, and had ended before it could be identified."""


@dataclass(frozen=True)
class Completed:
    """The exit code and the output of a program that `run` ran."""

    returncode: int
    stdout: str
    stderr: str


def identify(pid: int) -> Identity | None:
    """The process that has `pid` now. None if there is none, or if it is a zombie."""
    created = system.creation_time(pid)
    return None if created is None else Identity(pid, created)


def is_alive(identity: Identity) -> bool:
    """Whether this process still runs. A zombie does not."""
    return system.creation_time(identity.pid) == identity.created


def terminate(identity: Identity) -> None:
    """Requests the end without waiting: SIGTERM to the process group, CTRL_BREAK on Windows. No-op if it has ended."""
    if is_alive(identity):
        system.terminate(identity.pid)


def kill_tree(identity: Identity) -> None:
    """Kills the process and its descendants, without waiting. Never kills another process that got its pid.

    On POSIX, if the process itself has ended, this kills the rest of its session. So it also works after a crash, with
    an identity that was recorded before. Processes that left the session *and* lost their parent are not found.
    """
    # Pid 0 is excluded, because every process descends from it.
    if identity.pid > 0 and system.creation_time(identity.pid) in (None, identity.created):
        system.kill_tree(identity.pid)


def suspend(identity: Identity) -> None:
    """Suspends the process, but not its children: SIGSTOP, NtSuspendProcess. NodectlError if it has ended."""
    with _same_process(identity) as process:
        process.suspend()


def resume(identity: Identity) -> None:
    """Resumes a suspended process. NodectlError if it has ended."""
    with _same_process(identity) as process:
        process.resume()


@contextlib.contextmanager
def _same_process(identity: Identity) -> Iterator[psutil.Process]:
    try:
        process = psutil.Process(identity.pid)
        if not is_alive(identity):
            raise psutil.NoSuchProcess(identity.pid)
        yield process
    except psutil.Error as error:
        raise NodectlError(f"process {identity.pid}: {error}") from None


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Signals when the process has ended (`exited`) and when its pipes are closed too (`closed`).

    asyncio's own wait() waits for both in some releases, and so for every grandchild that holds a pipe open.
    """

    def __init__(self) -> None:
        super().__init__(limit=_LINE_BYTES_MAX, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


class Child:
    """A process that `spawn` started. `stdin`, `stdout` and `stderr` are streams if PIPE was given for them, else None.

    `identity.created` is negative if the process had ended before it could be identified.
    """

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: _Protocol, job: system.Job) -> None:
        self._transport = transport
        self._protocol = protocol
        self._job = job
        self.pid = transport.get_pid()
        self.identity = identify(self.pid) or Identity(self.pid, _UNKNOWN)
        self.stdin = protocol.stdin
        self.stdout = protocol.stdout
        self.stderr = protocol.stderr

    def poll(self) -> int | None:
        """The exit code once the event loop was notified of the end, else None. On POSIX, -N if signal N ended it."""
        return self._transport.get_returncode()

    async def wait(self) -> int:
        """Waits for the process to end; returns its exit code. Cancelling the wait leaves the process running.

        Then waits for its pipes to be closed, for at most 0.5 s: a grandchild may hold one open.
        """
        await self._protocol.exited.wait()
        await set_within(self._protocol.closed, _DRAIN_TIMEOUT_S)
        code = self.poll()
        assert code is not None
        return code

    async def stop(self, grace_s: float) -> int:
        """Requests the end, waits up to `grace_s` seconds, then kills the whole tree. Returns the exit code.

        TimedOut if the killed process does not end: it hangs in the kernel, on a dead disk or device.
        """
        if self.poll() is None:
            terminate(self.identity)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.wait()
        self.kill_tree()
        try:
            async with asyncio.timeout(_REAP_TIMEOUT_S):
                return await self.wait()
        except TimeoutError:
            raise TimedOut(f"process {self.pid} was killed but does not end: it hangs in the kernel") from None
        finally:
            self._transport.close()

    def kill_tree(self) -> None:
        """Kills the process and its descendants, without waiting."""
        self._job.kill()
        kill_tree(self.identity)


async def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: Path | int | None = None,
    stderr: int | None = None,
    die_with_parent: bool = False,
) -> Child:
    """Starts a program in a session (Windows: process group and job) of its own. NodectlError if it cannot run.

    stdin: PIPE, or None for an empty one. stdout: PIPE, the Path of a file to append to, or None for the caller's.
    stderr: PIPE, or None for the same target as stdout. If both are None, each is the caller's.

    die_with_parent: the child is killed when this process dies in any way. On Windows its descendants are killed too,
    on Linux only the child. On Linux it has no effect on a program that is setuid or has file capabilities, and `spawn`
    must be called in the main thread.
    """
    resolved = _resolved(argv, cwd, env)
    with (
        _start_errors(argv[0]),
        _open_output(stdout) as out,
        system.launcher(resolved, env, die_with_parent=die_with_parent) as (command, environment, more),
    ):
        options: dict[str, Any] = {**system.start_options(), **more}
        transport, protocol = await asyncio.get_running_loop().subprocess_exec(
            _Protocol, *command, cwd=cwd, env=None if environment is None else dict(environment),
            stdin=DEVNULL if stdin is None else stdin, stdout=out,
            stderr=STDOUT if stderr is None and stdout is not None else stderr,
            **options,
        )  # fmt: skip
        try:
            child = Child(transport, protocol, system.Job(transport.get_pid(), die_with_parent=die_with_parent))
            system.resume_started(child.pid)
        except BaseException:
            transport.close()  # kills the child
            raise
    return child


def spawn_detached(
    argv: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, log: Path
) -> Identity:
    """Starts a program that outlives this process and is not its child. stdout and stderr are appended to `log`.

    NodectlError if it cannot run. EndedAtOnce if it ended before it could be identified: see `log`.
    """
    command = _resolved(argv, cwd, env)
    with _start_errors(argv[0]), _open_output(log) as out:
        pid = system.start_detached(command, cwd=cwd, env=env, log=out)
    identity = identify(pid)
    if identity is None:
        raise EndedAtOnce(f"{argv[0]} ended at once: see {log}")
    return identity


def check_program(
    argv: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Raises NodectlError if there is no program that `spawn` would start."""
    _resolved(argv, cwd, env)


def handles_signal(pid: int, number: int) -> bool | None:
    """Whether the signal would not end process `pid`, because it handles or ignores it. None if that is unknown."""
    return system.handles_signal(pid, number)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Runs a program to its end and returns its output. Blocks, so do not call it in an event loop.

    NodectlError if it cannot run. TimedOut if it did not end in time; then its tree is killed.
    """
    command = _resolved(argv, cwd, env)
    options = {key: value for key, value in system.start_options().items() if key != "creationflags"}
    with _start_errors(argv[0]):
        process = subprocess.Popen(
            command, cwd=cwd, env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8", errors="replace", **options,
        )  # fmt: skip
    identity = identify(process.pid)
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException as error:
            if identity is not None:
                kill_tree(identity)
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimedOut(f"{argv[0]} did not end within {timeout_s:g} s") from None
            raise
    return Completed(process.returncode, stdout, stderr)


def _resolved(argv: Sequence[str | os.PathLike[str]], cwd: Path | None, env: Mapping[str, str] | None) -> list[str]:
    """`argv` with the full path of its program, from the PATH of `env`. NodectlError if there is no such program."""
    program = os.fspath(argv[0])
    if os.path.dirname(program):
        candidate = os.path.join(cwd or os.curdir, program)
        found = shutil.which(candidate)
    else:
        found = shutil.which(program, path=(os.environ if env is None else env).get("PATH", os.defpath))
    if found is None:
        raise NodectlError(f"cannot start {program}: no such program")
    return [os.path.abspath(found), *(os.fspath(part) for part in argv[1:])]


@contextlib.contextmanager
def _start_errors(program: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NodectlError(f"cannot start {os.fspath(program)}: {error.strerror or error}") from None


@contextlib.contextmanager
def _open_output(target: Path | int | None) -> Iterator[IO[bytes] | int | None]:
    if not isinstance(target, Path):
        yield target
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab") as file:
        yield file


def utf8_stdio() -> None:
    """Makes stdout and stderr UTF-8, with replacement of invalid characters: a Windows pipe is cp1252 by default."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
