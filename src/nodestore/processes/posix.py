"""POSIX part of child_processes. Every child leads its own session, so its tree can be found by the session id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_ROUNDS_MAX = 20
_DETACH_TIMEOUT_S = 20.0
_DEAD_STATES = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class Job:
    """Does nothing: job objects exist on Windows only, and on POSIX the session identifies the tree."""

    def __init__(self, pid: int, *, die_with_parent: bool) -> None:
        pass

    def kill(self) -> None:
        pass


def start_options() -> dict[str, Any]:
    """Arguments for subprocess that start a child as the leader of its own session."""
    return {"start_new_session": True}


def resume_started(pid: int) -> None:
    """Does nothing: only on Windows is a child started suspended."""


@contextlib.contextmanager
def launcher(
    argv: Sequence[str], env: Mapping[str, str] | None, *, die_with_parent: bool
) -> Iterator[tuple[list[str], Mapping[str, str] | None, dict[str, Any]]]:
    """Yields the command line that runs `argv`, its environment, and further arguments for subprocess.

    die_with_parent works on Linux only: other systems lack the signal.
    """
    if not die_with_parent or sys.platform != "linux":
        yield list(argv), env, {}
        return
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "die_with_parent needs the main thread: the kernel kills the child when the thread that started it ends"
        )
    with _environment_file(env) as descriptor:
        command = [sys.executable, "-I", "-S", _LAUNCH, "die", str(descriptor), str(os.getpid()), *argv]
        yield command, None, {"pass_fds": (descriptor,)}


def start_detached(argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None, log: Any) -> int:
    """Starts `argv` detached from this process, so that it leaves no zombie; returns its pid. OSError if it fails."""
    with _environment_file(env) as descriptor:
        done = subprocess.run(
            [sys.executable, "-I", "-S", _LAUNCH, "detach", str(descriptor), *argv],
            cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            timeout=_DETACH_TIMEOUT_S, check=False, pass_fds=(descriptor,),
        )  # fmt: skip
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        raise OSError(f"the launcher failed with exit code {done.returncode}")
    return int(done.stdout)


@contextlib.contextmanager
def _environment_file(env: Mapping[str, str] | None) -> Iterator[int]:
    """Yields the descriptor of a file with the environment, for `launch.py`. In memory on Linux: a disk may be full."""
    pairs = os.environ if env is None else env
    content = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in pairs.items())
    with contextlib.ExitStack() as stack:
        if sys.platform == "linux":
            file = stack.enter_context(os.fdopen(os.memfd_create("environment"), "w+b"))
        else:
            file = stack.enter_context(tempfile.TemporaryFile())
        file.write(content)
        file.seek(0)
        yield file.fileno()


def creation_time(pid: int) -> float | None:
    """When process `pid` began: a number that is constant while it lives. None if it has ended or is a zombie.

    On Linux: seconds since boot. psutil's time is based on the wall clock, and changes when that is set.
    """
    if sys.platform == "linux":
        try:
            state, ticks = parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else ticks / os.sysconf("SC_CLK_TCK")
    try:
        process = psutil.Process(pid)
        return None if process.status() in _DEAD_STATES else process.create_time()
    except psutil.Error:
        return None


def parse_stat(text: str) -> tuple[str, int]:
    """State letter and start time in clock ticks of a /proc/<pid>/stat line (proc(5), fields 3 and 22).

    The name in field 2 may contain spaces and parentheses. ValueError if the line has another form.
    """
    fields = text[text.rindex(")") + 1 :].split()
    if len(fields) < 20:
        raise ValueError("short stat line")
    return fields[0], int(fields[19])


def handles_signal(pid: int, number: int) -> bool | None:
    """Whether process `pid` handles or ignores the signal. None if unknown: only Linux shows it, in proc(5)."""
    if sys.platform != "linux":
        return None
    try:
        return signal_is_handled(Path(f"/proc/{pid}/status").read_text(errors="replace"), number)
    except (OSError, ValueError):
        return None


def signal_is_handled(status: str, number: int) -> bool:
    """Whether the masks SigIgn or SigCgt of a /proc/<pid>/status text have the signal. ValueError if one is missing."""
    masks = {name: value for name, _, value in (line.partition(":") for line in status.splitlines())}
    if not {"SigIgn", "SigCgt"} <= masks.keys():
        raise ValueError("no signal masks")
    return bool((int(masks["SigIgn"], 16) | int(masks["SigCgt"], 16)) >> (number - 1) & 1)


def terminate(pid: int) -> None:
    """Send SIGTERM to the process group that `pid` leads, or to `pid` alone if it leads none."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGTERM)


def kill_tree(pid: int) -> None:
    """Send SIGKILL to `pid`, its session and its descendants, until a scan finds no further process.

    Works even if `pid` itself has ended: the kernel does not reuse a pid while its session has members. A process with
    a pending fatal signal cannot fork, so if a scan finds no further process, none is left.
    """
    killed: set[int] = set()
    for _ in range(_ROUNDS_MAX):
        new = _tree(pid) - killed
        if not new:
            return
        for member in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member, signal.SIGKILL)
        killed |= new


def _tree(root: int) -> set[int]:
    """The living processes of the session that `root` leads, and all their descendants."""
    parents: dict[int, int] = {}
    members: set[int] = set()
    for process in psutil.process_iter(["ppid", "status"]):
        if process.info["status"] in _DEAD_STATES or process.info["ppid"] is None:
            continue
        parents[process.pid] = process.info["ppid"]
        with contextlib.suppress(OSError):
            if process.pid == root or os.getsid(process.pid) == root:
                members.add(process.pid)
    children = members
    while children:
        children = {pid for pid, parent in parents.items() if parent in members and pid not in members}
        members |= children
    return members - {os.getpid()}
