"""The resources of an idle cluster (memory, CPU, writes), and its needless takeovers while all cores are busy."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import psutil

from bench.harness.callers import run_callers
from bench.harness.cluster import BenchCluster
from bench.harness.commands import send_command
from bench.harness.figures import Figure, figure
from bench.harness.goals import MEMORY_MB, Goal
from nodectl.dev import launch
from nodectl.dev.record import Program
from nodestore.errors import NodectlError
from nodestore.processes import child_processes

DOCUMENTS = 1_000
_A_DAY_S = 86_400.0
_PROGRAMS: tuple[Program, ...] = ("noded", "masterd", "etcd")
_FILL_S = 180.0
_FILLERS = 256
_CALM = (Goal("worst", "under", 1.0),)
_OURS: tuple[Program, ...] = ("noded", "masterd")
_PSS = (
    "PSS: the memory of the process alone, and its share of the memory that it has in common with other processes, "
    "such as the code of Python and of its libraries. Here all processes divide that memory among them; alone on a PC "
    "each has more, at most its RSS."
)
_RSS = "RSS: all memory of the process, including all that it has in common with other processes."
_FSYNCS = "etcd_disk_wal_fsync_duration_seconds_count"
_COMMITS = "etcd_disk_backend_commit_duration_seconds_count"


async def create_documents(bench_cluster: BenchCluster) -> None:
    """Create 1,000 documents (scenes)."""
    for start in range(0, DOCUMENTS, 100):
        await asyncio.gather(
            *(
                bench_cluster.client.scene_save(f"bench{number}", {"n1": {"text": f"document {number}"}})
                for number in range(start, min(start + 100, DOCUMENTS))
            )
        )


async def run_commands(bench_cluster: BenchCluster, count: int) -> int:
    """Send commands until the cluster has run `count` of them, for at most 180 s; return how many it has run."""
    client, ends = bench_cluster.client, time.monotonic() + _FILL_S
    index = (await send_command(client)).index

    async def send(_: int) -> None:
        nonlocal index
        index = max(index, (await send_command(client)).index)

    while index < count and time.monotonic() < ends:
        await run_callers(send, _FILLERS, 1.0)
    return index


def memory(bench_cluster: BenchCluster, commands: int) -> list[Figure]:
    """Measure the PSS of each kind of process, and the RSS of masterd and noded, which share much memory.

    commands: how many the cluster has run before.
    """
    after = f"With nine nodes and {DOCUMENTS:,} documents, after {commands:,} commands within some minutes."
    figures = []
    for program in _PROGRAMS:
        sizes = [process.memory_full_info().pss / 1e6 for process in _processes(bench_cluster, program)]
        goals = [Goal("worst", "at most", MEMORY_MB[program])]
        figures.append(figure(f"memory of {program}", sizes, "MB", goals=goals, how=f"{_PSS} {after}"))
    for program in _OURS:
        sizes = [process.memory_info().rss / 1e6 for process in _processes(bench_cluster, program)]
        name = f"memory of {program}, all counted as its own (RSS)"
        figures.append(figure(name, sizes, "MB", how=f"{_RSS} {after}"))
    return figures


def _processes(
    bench_cluster: BenchCluster, program: Program, only: Iterable[str] | None = None
) -> list[psutil.Process]:
    parts = bench_cluster.cluster.record.parts_of(program)
    names = parts if only is None else only
    found = [parts[name].process for name in names]
    return [psutil.Process(process.pid) for process in found if process is not None]


# --- at rest --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """Counters that only grow, by pid."""

    at: float
    cpu_s: dict[int, float]
    written: dict[int, int]
    fsyncs: float


async def at_rest(bench_cluster: BenchCluster, seconds: float) -> list[Figure]:
    """Measure CPU time, fsyncs and written bytes while no client sends requests."""
    leader = (await bench_cluster.client.leader()).id
    nodeds, leads = _processes(bench_cluster, "noded"), _processes(bench_cluster, "masterd", [leader])
    others = _processes(bench_cluster, "masterd", set(bench_cluster.cluster.record.parts_of("masterd")) - {leader})
    members = _processes(bench_cluster, "etcd")
    every = [*nodeds, *leads, *others, *members]
    before = await _sample(bench_cluster, every)
    await asyncio.sleep(seconds)
    after = await _sample(bench_cluster, every)
    took_s = after.at - before.at
    how = f"Over {seconds:g} s in which no client sends a request; nine nodeds, three masterds, three members."

    def cpu(processes: list[psutil.Process]) -> list[float]:
        return [(after.cpu_s[p.pid] - before.cpu_s[p.pid]) / took_s * 100 for p in processes]

    written = [(after.written[p.pid] - before.written[p.pid]) / took_s * _A_DAY_S / 1e9 for p in members]
    fsyncs = (after.fsyncs - before.fsyncs) / took_s * _A_DAY_S / len(members)
    return [
        figure("CPU of a noded at rest", cpu(nodeds), "% of a core", goals=_CALM, how=how),
        figure("CPU of the leading masterd at rest", cpu(leads), "% of a core", goals=_CALM, how=how),
        figure("CPU of a standby at rest", cpu(others), "% of a core", how=how),
        figure("CPU of an etcd member at rest", cpu(members), "% of a core", how=how),
        figure("fsyncs of a member in a day at rest", [fsyncs], "", how=f"{how} Extrapolated, from etcd's metrics."),
        figure("written by a member in a day at rest", written, "GB", how=f"{how} Extrapolated, from /proc/PID/io."),
    ]  # fmt: skip


async def _sample(bench_cluster: BenchCluster, processes: list[psutil.Process]) -> _Sample:
    at = time.monotonic()
    cpu_s = {process.pid: sum(process.cpu_times()[:2]) for process in processes}
    written = {process.pid: int(process.io_counters().write_bytes) for process in processes}
    fsyncs = 0.0
    async with aiohttp.ClientSession() as session:
        for endpoint in bench_cluster.cluster.endpoints:
            async with session.get(f"http://{endpoint}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            fsyncs += sum(float(line.split()[1]) for line in lines if line.startswith((_FSYNCS, _COMMITS)))
    return _Sample(at, cpu_s, written, fsyncs)


# --- while the cores are busy ---------------------------------------------------------------------------------------

_BURN = "while True: pass"
_PAUSE_S = 0.1


async def false_takeovers(bench_cluster: BenchCluster, seconds: float) -> Figure:
    """Count takeovers while nothing fails and every core is busy with other work."""
    before = {term["nonce"] for term in await bench_cluster.client.terms() if "problem" not in term}
    async with AsyncExitStack() as stack:
        for _ in range(os.cpu_count() or 2):
            child = await child_processes.spawn(
                [sys.executable, "-c", _BURN], env=launch.inherited_environment(), die_with_parent=True
            )
            stack.push_async_callback(child.stop, 0.1)
        sent, failed = await _commands_for(bench_cluster, seconds)
    terms = [term for term in await bench_cluster.client.terms() if "problem" not in term]
    after = [term for term in terms if term["nonce"] not in before]
    for term in after:
        bench_cluster.report(f"needless takeover by {term['id']}: {term.get('cause')}: {term.get('why')}")
    return figure(
        "needless takeovers with all cores busy", [float(len(after))], "", goals=[Goal("worst", "at most", 0.0)],
        how=f"In {seconds / 60:.2g} minutes. For each core there is one process that only computes, in addition to the "
        f"whole cluster with nine nodeds; some ten commands a second, {sent:,} in all, of which {failed:,} failed.",
    )  # fmt: skip


async def _commands_for(bench_cluster: BenchCluster, seconds: float) -> tuple[int, int]:
    """Send commands for `seconds`; return how many were sent, and how many of them failed."""
    end = time.monotonic() + seconds
    number = failed = 0
    while time.monotonic() < end:
        number += 1
        try:
            await bench_cluster.client.node_set(f"n{number % 9 + 1}", {"text": f"busy {number}"})
        except NodectlError as error:
            failed += 1
            bench_cluster.report(f"a command failed: {error}")
        await asyncio.sleep(_PAUSE_S)
    return number, failed
