"""Finds and kills the processes that this noded started, or that an earlier noded of the same node left running.

Never those of another noded that still runs: it may be the successor of this one, if this one was replaced while it was
frozen.

Each program gets a marker in its environment, which its child processes inherit. The marker finds all of them, even if
their parent has ended or the work directory was deleted. An unrelated process that got the pid of an ended one has
no marker and is not killed. Two kinds of processes are not found: those that erased their environment, and those whose
environment noded may not read (those of another user, unless noded runs as root).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil

from noded.drivers.contract import Context, DriverError
from nodestore.processes import child_processes
from nodestore.support import jsonio

MARKER_VARIABLE = "NODECTL_RUN"
_KILL_TIMEOUT_S = 5.0


def marker(context: Context) -> str:
    """Return the value of MARKER_VARIABLE for the processes that this noded starts.

    It ends with the nonce and the identity of this noded: another noded that still runs may have started a process.
    """
    me = child_processes.identify(os.getpid())
    return f"{_marker_prefix(context)}{context.nonce}/" + (f"{me.pid}:{me.created!r}" if me else "")


def _marker_prefix(context: Context) -> str:
    """Return the common prefix of the markers of every noded with this cluster, node and work directory."""
    work_dir_digest = jsonio.digest(os.path.normcase(Path(context.work_dir).resolve()))
    return f"{context.cluster}/{context.node}/{work_dir_digest}/"


async def end(context: Context) -> tuple[int, ...]:
    """Kill the processes that `find` returns and wait until they have ended. Returns their pids.

    Raises DriverError if one does not end: it hangs in the kernel and still holds its devices and files.
    """
    marked = await find(context)
    for identity in marked:
        await asyncio.to_thread(child_processes.kill_tree, identity)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while left := [identity.pid for identity in marked if child_processes.is_alive(identity)]:
        if time.monotonic() > deadline:
            raise DriverError(f"process {left[0]} of an earlier run does not end although it was killed")
        await asyncio.sleep(0.02)
    return tuple(identity.pid for identity in marked)


async def find(context: Context) -> list[child_processes.Identity]:
    """Return all running processes with this node's marker, except those of another noded that still runs."""
    return await asyncio.to_thread(_find_marked, _marker_prefix(context))


def _find_marked(prefix: str) -> list[child_processes.Identity]:
    own_pids = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    marked = []
    for process in psutil.process_iter():
        if process.pid in own_pids:
            continue
        identity = child_processes.identify(process.pid)
        try:
            value = process.environ().get(MARKER_VARIABLE, "")
        except (psutil.Error, OSError):  # it has ended, or we must not read it
            continue
        if value.startswith(prefix) and identity is not None and not _is_of_another(value.removeprefix(prefix)):
            marked.append(identity)
    return marked


def _is_of_another(suffix: str) -> bool:
    """Whether another noded started the process and still runs. suffix: the marker after its prefix."""
    pid, _, created = suffix.partition("/")[2].partition(":")
    try:
        owner = child_processes.Identity(int(pid), float(created))
    except ValueError:  # an earlier release wrote no owner
        return False
    return owner.pid != os.getpid() and child_processes.is_alive(owner)
