"""What the start of a program costs: of nodectl, and of a masterd until it can take over, compared with earlier."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.harness.cluster import BenchCluster, poll_until
from bench.harness.core_speed import CoreSpeed, watch_core_speed
from bench.harness.cpu_time import cpu_s
from bench.harness.figures import Figure, figure
from bench.harness.goals import NO_SLOWER
from bench.harness.recorded import Recorded
from nodestore.errors import NodectlError
from nodestore.processes import child_processes

if sys.platform != "win32":
    import resource

_HELP = (sys.executable, "-m", "nodectl", "--help")
_HELP_S = 60.0
_CPU = (
    "CPU time, divided by the slowdown of the cores. The baseline is that of bench/recorded.json, of the same machine."
)


@dataclass(frozen=True)
class Start:
    """One start of a program: from when to when, on the monotonic clock, and the CPU time that it took."""

    begun: float
    ended: float
    cpu_s: float


async def starts(bench_cluster: BenchCluster, recorded: Recorded, trials: int) -> list[Figure]:
    """Measure `nodectl --help`, and the start of a standby until its replica has caught up."""
    async with watch_core_speed() as speed:
        helps = [await asyncio.to_thread(_nodectl_help) for _ in range(trials)]
        standbys = [await _standby(bench_cluster) for _ in range(trials)]
        return [
            *_figures("start of nodectl --help", helps, speed, recorded, "Until it has ended."),
            *_figures(
                "start of a masterd until it stands by",
                standbys,
                speed,
                recorded,
                "Until its replica holds what the leader's held at the start.",
            ),
        ]


def _nodectl_help() -> Start:
    before, begun = _children_cpu_s(), time.monotonic()
    done = child_processes.run(_HELP, timeout_s=_HELP_S)
    ended = time.monotonic()
    if done.returncode:
        raise NodectlError(f"nodectl --help ended with code {done.returncode}: {done.stderr.strip()}")
    return Start(begun, ended, _children_cpu_s() - before)


def _children_cpu_s() -> float:
    """Return the CPU time of all children that have ended."""
    if sys.platform == "win32":
        return sum(os.times()[2:4])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _standby(bench_cluster: BenchCluster) -> Start:
    """Stop a standby and start it again."""
    cluster, leader = bench_cluster.cluster, (await bench_cluster.client.leader()).id
    name = next(other for other in cluster.master_urls if other != leader)
    await cluster.stop(name)
    async with bench_cluster.http_session() as session:
        index = await _index(session, cluster.master_urls[leader])
        begun = time.monotonic()
        await cluster.start(name)

        async def has_caught_up() -> bool:
            try:
                return await _index(session, cluster.master_urls[name]) >= index
            except (aiohttp.ClientError, TimeoutError):
                return False

        await poll_until(has_caught_up, f"{name} is a standby again", 0.01)
        ended = time.monotonic()
    process = cluster.processes[name].process
    assert process is not None
    return Start(begun, ended, cpu_s(process.pid))


async def _index(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(f"{url}/v1/health") as answer:
        return int((await answer.json())["index"])


def _figures(
    name: str, found: Sequence[Start], speed: CoreSpeed, recorded: Recorded, until: str
) -> tuple[Figure, Figure]:
    cpu_ms = [start.cpu_s / speed.slowdown(start.begun, start.ended) * 1e3 for start in found]
    wall_ms = [(start.ended - start.begun) * 1e3 for start in found]
    earlier = recorded.median(f"CPU of the {name}")
    compared: dict[str, Any] = (
        {} if earlier is None else {"baseline": [earlier], "baseline_name": "recorded", "goals": [NO_SLOWER]}
    )
    return (
        figure(f"CPU of the {name}", cpu_ms, "ms", how=f"{until} {_CPU}", **compared),
        figure(name, wall_ms, "ms", how=until),
    )
