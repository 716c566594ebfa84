"""POSIX half of child_processes. Every child leads its own session, so its whole tree can be found by session id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_ROUNDS_MAX = 20
_DETACH_TIMEOUT_S = 20.0
_DEAD_STATES = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class Job:
    """Windows has job objects; here the session does the work."""

    def __init__(self, pid: int, *, die_with_parent: bool) -> None:
        pass

    def kill(self) -> None:
        pass


def start_options() -> dict[str, Any]:
    """What subprocess needs to start a child that leads its own session."""
    return {"start_new_session": True}


def resume_started(pid: int) -> None:
    """Nothing to do: Windows starts a child suspended, we do not."""


def wrap_command(argv: Sequence[str], *, die_with_parent: bool) -> list[str]:
    """The command line that runs `argv`, tied to this process when asked to (on Linux: others have no such signal)."""
    if not die_with_parent or sys.platform != "linux":
        return list(argv)
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "die_with_parent needs the main thread: the kernel binds it to the thread that starts a child"
        )
    return [sys.executable, "-I", "-S", _LAUNCH, "die", str(os.getpid()), *argv]


def start_detached(argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None, log: Any) -> int:
    """Starts `argv` as nobody's child (so it leaves no zombie with us); its pid. OSError when that fails."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", _LAUNCH, "detach", *argv],
        cwd=cwd, env=None if env is None else dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        timeout=_DETACH_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        raise OSError(f"the launcher failed with exit code {done.returncode}")
    return int(done.stdout)


def creation_time(pid: int) -> float | None:
    """When process `pid` began, in a measure that never changes while it lives; None when it is gone or a zombie.

    On Linux seconds since boot: psutil's time counts from the wall clock's idea of the boot and moves when it is set.
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

    The name in field 2 may itself hold spaces and parentheses. ValueError for anything else.
    """
    fields = text[text.rindex(")") + 1 :].split()
    if len(fields) < 20:
        raise ValueError("short stat line")
    return fields[0], int(fields[19])


def terminate(pid: int) -> None:
    """SIGTERM to the group that `pid` leads, or to `pid` alone when it leads none."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGTERM)


def kill_tree(pid: int) -> None:
    """SIGKILL to `pid`, its session and its descendants, until a look finds nobody new.

    Works when `pid` itself is gone: its number is not given away while its session has members. A process with a
    fatal signal pending cannot fork, so when a look finds nobody new, nobody is left.
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
    """Living processes of the session that `root` leads, and everybody's children from there on."""
    parents: dict[int, int] = {}
    members: set[int] = set()
    for process in psutil.process_iter(["ppid", "status"]):
        if process.info["status"] in _DEAD_STATES or process.info["ppid"] is None:
            continue
        parents[process.pid] = process.info["ppid"]
        with contextlib.suppress(OSError):
            if process.pid == root or os.getsid(process.pid) == root:
                members.add(process.pid)
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in members and pid not in members}
        members |= children
        grown = bool(children)
    return members - {os.getpid()}
