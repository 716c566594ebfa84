"""Child processes: the one way in which the programs start, watch and end others, on Linux and on Windows.

A process is known by its `Identity`, pid and creation time, because pids are recycled. Ending a process means its whole
tree. The system's own half is in `_procs_posix` and `_procs_win32`.
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
from typing import IO

import psutil

from nodestore.errors import NodectlError, TimedOut
from nodestore.support.waiting import set_within

if sys.platform == "win32":
    from nodestore.processes import win32 as system
else:
    from nodestore.processes import posix as system

__all__ = [
    "PIPE", "Child", "Completed", "EndedAtOnce", "Identity", "identify", "is_alive", "kill_tree",
    "resume", "run", "spawn", "spawn_detached", "suspend", "terminate", "utf8_stdio",
]  # fmt: skip

_REAP_TIMEOUT_S = 10.0
_UNKNOWN = -1.0
_DRAIN_TIMEOUT_S = 0.5
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Identity:
    """One process for ever: a later one that got the same pid differs in `created`.

    `created` has a meaning on this machine only and, on Linux, until it boots again (seconds since boot); compare it,
    do not show it.
    """

    pid: int
    created: float


class EndedAtOnce(NodectlError):
    """A program was started, and had ended before anybody could look."""


@dataclass(frozen=True)
class Completed:
    """What `run` saw of a program that ended."""

    returncode: int
    stdout: str
    stderr: str


def identify(pid: int) -> Identity | None:
    """The process that has `pid` now; None when there is none, or a zombie."""
    created = system.creation_time(pid)
    return None if created is None else Identity(pid, created)


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs; a zombie does not."""
    return system.creation_time(identity.pid) == identity.created


def terminate(identity: Identity) -> None:
    """Asks politely, without waiting: SIGTERM to the process group, CTRL_BREAK on Windows. Nothing when it is gone."""
    if is_alive(identity):
        system.terminate(identity.pid)


def kill_tree(identity: Identity) -> None:
    """Ends the process and all that it started, at once. Nothing happens to another process that got its pid.

    On POSIX it also finds what a process that is gone has left behind in its session: so after a crash, call it with
    the identity that was noted. Processes that left the session *and* lost their parent are not found.
    """
    if identity.pid > 0 and system.creation_time(identity.pid) in (None, identity.created):  # 0 is everybody's ancestor
        system.kill_tree(identity.pid)


def suspend(identity: Identity) -> None:
    """Stops the process (not its children) where it is: SIGSTOP, NtSuspendProcess. NodectlError when it is gone."""
    with _same_process(identity) as process:
        process.suspend()


def resume(identity: Identity) -> None:
    """Lets a suspended process go on. NodectlError when it is gone."""
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
    """Knows when the process ended (`exited`) and when its pipes are closed too (`closed`).

    asyncio's own wait() waits, in some releases, for both, and so for every grandchild that holds a pipe.
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
    """A process that `spawn` started. Its streams are there where PIPE was asked for.

    `identity.created` is negative when it had ended before anybody could look.
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
        """The exit code (negative: the signal, on POSIX) once the event loop has heard of it, else None."""
        return self._transport.get_returncode()

    async def wait(self) -> int:
        """Waits for the process to end; its exit code. Cancelling the wait leaves it running.

        Its pipes are normally closed by then; for a grandchild that holds one it waits 0.5 s at most.
        """
        await self._protocol.exited.wait()
        await set_within(self._protocol.closed, _DRAIN_TIMEOUT_S)
        code = self.poll()
        assert code is not None
        return code

    async def stop(self, grace_s: float) -> int:
        """Asks politely, waits up to `grace_s`, then kills; either way nothing of its tree is left. Its exit code.

        TimedOut when even a killed process does not go: it hangs in the kernel, on a dead disk or device.
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
            raise TimedOut(f"process {self.pid} was killed and does not go: it hangs in the kernel") from None
        finally:
            self._transport.close()

    def kill_tree(self) -> None:
        """Ends the process and all that it started, at once, without waiting."""
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
    """Starts a program in a session (Windows: process group and job) of its own. NodectlError when it cannot run.

    stdout: None is ours, a Path is appended to, or PIPE. stderr: where stdout goes, or PIPE. stdin: nothing, or PIPE.
    die_with_parent: when we die, however that happens, it is killed; on Windows its whole tree, on Linux itself only
    (and not if its file is setuid or has capabilities). Needs the main thread on Linux.
    """
    command = system.wrap_command(_resolved(argv, cwd, env), die_with_parent=die_with_parent)
    with _start_errors(argv[0]), _open_output(stdout) as out:
        transport, protocol = await asyncio.get_running_loop().subprocess_exec(
            _Protocol, *command, cwd=cwd, env=None if env is None else dict(env),
            stdin=DEVNULL if stdin is None else stdin, stdout=out,
            stderr=STDOUT if stderr is None and stdout is not None else stderr,
            **system.start_options(),
        )  # fmt: skip
        try:
            child = Child(transport, protocol, system.Job(transport.get_pid(), die_with_parent=die_with_parent))
            system.resume_started(child.pid)
        except BaseException:
            transport.close()  # kills it
            raise
    return child


def spawn_detached(
    argv: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, log: Path
) -> Identity:
    """Starts a program that outlives us and is nobody's child; stdout and stderr are appended to `log`.

    NodectlError when it cannot run; EndedAtOnce, whose last words are in `log`.
    """
    command = _resolved(argv, cwd, env)
    with _start_errors(argv[0]), _open_output(log) as out:
        pid = system.start_detached(command, cwd=cwd, env=env, log=out)
    identity = identify(pid)
    if identity is None:
        raise EndedAtOnce(f"{argv[0]} ended at once: see {log}")
    return identity


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Runs a program to its end and returns its output. Blocks: not for use on an event loop.

    NodectlError when it cannot run, TimedOut when it did not end in time (its tree is killed).
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
    """`argv` with its program's full path, looked up in the PATH of `env`: a missing one is known before the start."""
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
    """Makes stdout and stderr UTF-8 that never fails on a character: a Windows pipe is cp1252 otherwise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
