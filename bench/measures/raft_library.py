"""PySyncObj, the replicated state machine that a Python user would take instead: its rate, and its leader killed."""

from __future__ import annotations

import asyncio
import itertools
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.harness.cluster import poll_until
from bench.harness.figures import Figure, figure
from nodectl.dev import launch
from nodectl.dev.ports import HOST, free_ports
from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.support.jsonio import loads

PROGRAM = Path(__file__).with_name("pysyncobj_node.py")
_SIZE = 3
_LOAD_S = 3.0
_ANSWER_S = 90.0
_STEADY_S = 1.0
_GAP_S = 4.0
_MANY = 64


@dataclass(frozen=True)
class Variant:
    """One way to run PySyncObj.

    journal: `synced` to disk at each entry, as etcd does it; `unsynced`, as PySyncObj does it, is lost with the PC's
    power. patience_s: the least time until a silent leader is replaced; 0: the default, 0.4 s.
    """

    name: str
    journal: Literal["synced", "unsynced", "none"]
    tick_s: float
    patience_s: float


VARIANTS = (
    Variant("PySyncObj, journal synced to disk, default settings", "synced", 0.05, 0.0),
    Variant("PySyncObj, journal synced to disk, ticks of 1 ms, short time-outs", "synced", 0.001, 0.15),
    Variant("PySyncObj, journal, ticks of 1 ms, short time-outs", "unsynced", 0.001, 0.15),
    Variant("PySyncObj, in memory only, ticks of 1 ms, short time-outs", "none", 0.001, 0.15),
)


class _Node:
    """One process of the cluster."""

    def __init__(self, child: child_processes.Child) -> None:
        self.child = child

    async def ask(self, line: str) -> bytes:
        """Send a line, and return the line that answers it. Raises NodectlError if the process has ended."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(_ANSWER_S):
            answer = await self.child.stdout.readline()
        if not answer:
            raise NodectlError(f"{PROGRAM.name} ended with code {await self.child.wait()}")
        return answer

    async def leads(self) -> bool:
        return await self.ask("leads") == b"1\n"


@asynccontextmanager
async def _cluster(python: str, folder: Path, variant: Variant) -> AsyncIterator[list[_Node]]:
    """Run three processes; yield them with the leader first."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    addresses = [f"{HOST}:{port}" for port in free_ports(_SIZE)]
    async with AsyncExitStack() as stack:
        nodes: list[_Node] = []
        for number, own in enumerate(addresses):
            journal = "-" if variant.journal == "none" else str(folder / f"journal{number}")
            settings = [journal, variant.journal, f"{variant.tick_s:g}", f"{variant.patience_s:g}"]
            others = [other for other in addresses if other != own]
            child = await child_processes.spawn(
                [python, "-I", str(PROGRAM), *settings, own, *others], env=launch.inherited_environment(),
                stdin=child_processes.PIPE, stdout=child_processes.PIPE, stderr=DEVNULL, die_with_parent=True,
            )  # fmt: skip
            stack.push_async_callback(child.stop, 0.0)
            nodes.append(_Node(child))
        yield await _leader_first(nodes)


async def _leader_first(nodes: list[_Node]) -> list[_Node]:
    found: list[_Node] = []

    async def one_leads() -> bool:
        found[:] = [node for node in nodes if await node.leads()]
        return len(found) == 1

    await poll_until(one_leads, "PySyncObj has a leader")
    return [found[0], *(node for node in nodes if node is not found[0])]


async def _gap_ms(nodes: list[_Node]) -> float:
    """Kill the leader while two callers send commands at another process; return the longest pause."""
    leader, caller, *_ = nodes
    pause = asyncio.create_task(caller.ask(f"gap {_GAP_S + _STEADY_S:g}"))
    try:
        await asyncio.sleep(_STEADY_S)  # commands are acknowledged all the time before the fault
        leader.child.kill_tree()
        return float(await pause)
    finally:
        pause.cancel()
        await asyncio.gather(pause, return_exceptions=True)


async def measure(python: str, folder: Path, trials: int) -> list[Figure]:
    """Measure all variants with the Python that has PySyncObj."""
    numbers = itertools.count()
    found: list[Figure] = []
    for variant in VARIANTS:
        gaps: list[float] = []
        async with _cluster(python, folder / str(next(numbers)), variant) as nodes:
            for callers in (1, _MANY):
                load = loads(await nodes[0].ask(f"load {callers} {_LOAD_S:g}"))
                rate = len(load["latencies_ms"]) / load["seconds"]
                how = "Commands of callers in the process that leads, each sent when the last is acknowledged."
                found.append(figure(f"{variant.name}: {callers} in flight", [rate], "1/s", how=how))
            gaps.append(await _gap_ms(nodes))
        for _ in range(trials - 1):
            async with _cluster(python, folder / str(next(numbers)), variant) as nodes:
                gaps.append(await _gap_ms(nodes))
        how = "The longest pause between acknowledged commands of two callers in another process, in ms."
        found.append(figure(f"{variant.name}: leader killed (-9)", gaps, "ms", how=how))
    return found
