"""The generator of `open_loop` as a process of its own, with a lower priority than the cluster.

Linux shares the cores among the sessions first, if it groups processes by session (`sched_autogroup_enabled`). Each
process of a cluster is a session of its own, so the generator lowers the priority of its session too.

The cluster under test shares the cores with the generator. On PCs of their own the clients would take nothing from it.
So the cluster goes first; what it leaves of the cores is enough to offer several times the load that it can serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.harness.open_loop import LoadResult, MakeCommand, offer, saturate
from nodectl.dev import launch
from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.support.jsonio import dumps, loads

_PROGRAM = "bench.harness.load_process"
_NICE = 3
_SESSION_NICE = Path("/proc/self/autogroup")
_END_S = 60.0


def make_commands(run: str) -> MakeCommand:
    """Return commands that change a node's document, with ids of their own."""

    def make(number: int, after: int) -> dict[str, object]:
        args = {"node": f"n{number % 9 + 1}", "values": {"text": f"{run} {number}"}}
        return {"name": "node.set", "args": args, "id": f"{run}-{number}", "after": after, "actor": "bench"}

    return make


async def offer_apart(url: str, run: str, rate: float, seconds: float) -> LoadResult:
    """Do what `offer` does with the commands of `run`, in another process. Raises NodectlError if it fails."""
    return await _apart({"url": url, "run": run, "rate": rate, "seconds": seconds})


async def saturate_apart(url: str, run: str, callers: int, seconds: float) -> LoadResult:
    """Do what `saturate` does with the commands of `run`, in another process. Raises NodectlError if it fails."""
    return await _apart({"url": url, "run": run, "callers": callers, "seconds": seconds})


async def _apart(order: Mapping[str, Any]) -> LoadResult:
    child = await child_processes.spawn(
        [sys.executable, "-m", _PROGRAM, dumps(order).decode()], env=launch.inherited_environment(),
        stdout=child_processes.PIPE, die_with_parent=True,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        async with asyncio.timeout(order["seconds"] + _END_S):
            answer = await child.stdout.read()
            code = await child.wait()
    finally:
        await child.stop(0.0)
    if code != 0:
        raise NodectlError(f"{_PROGRAM} ended with code {code}")
    return LoadResult(**loads(answer))


async def _obey(order: Mapping[str, Any]) -> LoadResult:
    url, make, seconds = order["url"], make_commands(order["run"]), order["seconds"]
    if "callers" in order:
        return await saturate(url, make, order["callers"], seconds)
    return await offer(url, make, order["rate"], seconds)


def _lower_priority() -> None:
    if hasattr(os, "nice"):
        os.nice(_NICE)
    with contextlib.suppress(OSError):  # another kernel, or one that does not group processes
        _SESSION_NICE.write_text(str(_NICE), "ascii")


def main() -> None:
    _lower_priority()
    sys.stdout.buffer.write(dumps(asdict(asyncio.run(_obey(loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
