"""Ending what an earlier noded's programs have left behind.

Each program gets a marker in its environment, which everything it starts inherits. That finds them all, whoever their
parent is by now and whatever became of the work directory; and a pid that now belongs to somebody else is not touched,
nor one noted before a reboot. Not found: a process that has erased its environment or whose environment we may not
read (another user's, when noded is not root).
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
    """The value of VARIABLE for what this noded starts."""
    return _marker_prefix(context) + context.nonce


def _marker_prefix(context: Context) -> str:
    """What the markers of all noded of this node and work directory begin with."""
    place = jsonio.digest(os.path.normcase(Path(context.work_dir).resolve()))
    return f"{context.cluster}/{context.node}/{place}/"


async def end(context: Context) -> tuple[int, ...]:
    """Kill all processes with this node's marker, and wait until they are gone; their pids.

    DriverError when one does not go: it hangs in the kernel, and its devices and files are not free.
    """
    found = await find(context)
    for identity in found:
        await asyncio.to_thread(child_processes.kill_tree, identity)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while left := [identity.pid for identity in found if child_processes.is_alive(identity)]:
        if time.monotonic() > deadline:
            raise DriverError(f"a process left behind does not go though killed (pid {left[0]})")
        await asyncio.sleep(0.02)
    return tuple(identity.pid for identity in found)


async def find(context: Context) -> list[child_processes.Identity]:
    """All living processes with this node's marker."""
    return await asyncio.to_thread(_find_marked, _marker_prefix(context))


def _find_marked(common: str) -> list[child_processes.Identity]:
    us = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in us:
            continue
        identity = child_processes.identify(process.pid)
        try:
            ours = process.environ().get(MARKER_VARIABLE, "").startswith(common)
        except (psutil.Error, OSError):  # gone, or not ours to read
            continue
        if ours and identity is not None:
            found.append(identity)
    return found
