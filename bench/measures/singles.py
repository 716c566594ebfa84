"""64 HTTP clients that send one command in each request, compared with puts; a profile of the leader's CPU time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from bench.harness.baseline import Baseline
from bench.harness.callers import Call, run_callers
from bench.harness.cluster import BenchCluster, has_adopted, poll_until
from bench.harness.commands import next_command
from bench.harness.cpu_time import cpu_s
from bench.harness.figures import Figure, figure
from bench.harness.load import Load
from bench.harness.profiled import Shares, shares
from bench.harness.yardstick import open_yardstick
from bench.measures.commands import PUTS
from nodectl import Client
from nodestore.errors import NodectlError
from nodestore.support.jsonio import dumps

_SECONDS = 0.6
_CALLERS = 64


async def single_requests(bench_cluster: BenchCluster, baseline: Baseline, trials: int) -> tuple[Figure, str]:
    """Measure 64 HTTP clients, each with its own connection; return the figure and a note on the leader's profile."""
    leader = await bench_cluster.client.leader()
    process = bench_cluster.cluster.processes[leader.id].process
    assert process is not None
    ours, bare, used_us = await _rates_with_puts(leader.url, baseline, trials, process.pid)
    measured = figure(
        "commands of 64 HTTP clients, one a request", ours, "1/s", bare, PUTS,
        how="64 connections, one command a request, answered before the next is sent. Trials of commands and of frozen "
        f"puts, {_SECONDS:g} s each, alternate; a first trial is a warm-up and is not counted. A request costs the "
        f"leader {used_us:.0f} us of CPU. {await baseline.describe_member()}",
    )  # fmt: skip
    return measured, _profile_note(await _profiled(bench_cluster))


async def _rates_with_puts(
    url: str, baseline: Baseline, trials: int, leader: int
) -> tuple[list[float], list[float], float]:
    """Return the rates of commands and of frozen puts, and the leader's CPU time for a request in microseconds."""
    ours: list[Load] = []
    bare: list[Load] = []
    used_s = 0.0
    async with _clients(url) as send, open_yardstick(baseline.endpoints[0], baseline.tls_files) as yardstick:
        await run_callers(send, _CALLERS, _SECONDS)
        await yardstick.puts(_CALLERS, _SECONDS)
        for _ in range(trials):
            before = cpu_s(leader)
            ours.append(await run_callers(send, _CALLERS, _SECONDS))
            used_s += cpu_s(leader) - before
            bare.append(await yardstick.puts(_CALLERS, _SECONDS))
    requests = sum(load.calls for load in ours)
    return [load.rate for load in ours], [load.rate for load in bare], used_s / requests * 1e6


@asynccontextmanager
async def _clients(url: str) -> AsyncIterator[Call]:
    """Open 64 clients; yield the action that sends a command by the client with a given number."""
    clients = [_SingleClient(url) for _ in range(_CALLERS)]
    try:
        yield lambda number: clients[number].command()
    finally:
        await asyncio.gather(*(client.close() for client in clients))


class _SingleClient:
    """A client that knows one master, has a connection of its own, and sends one command a request."""

    def __init__(self, url: str) -> None:
        self._url = url + "/v1/commands"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))

    async def command(self) -> None:
        node, values = next_command()
        body = dumps({"name": "node.set", "args": {"node": node, "values": values}, "actor": "bench"})
        async with self._session.post(self._url, data=body, headers={"Content-Type": "application/json"}) as answer:
            if answer.status != 200:
                raise NodectlError(f"{self._url} answered {answer.status}: {await answer.text()}")
            await answer.read()

    async def close(self) -> None:
        await self._session.close()


# --- the profile ----------------------------------------------------------------------------------------------------


async def _profiled(bench_cluster: BenchCluster) -> Shares:
    """Profile another masterd in a cluster of its own with the same configuration; return its shares of CPU time."""
    current = (await bench_cluster.client.config())["current"]
    assert current is not None
    name, stats = "profiled", bench_cluster.folder / "profiled.stats"
    more = {"NODECTL_BENCH_PROFILE": str(stats)}
    async with (
        bench_cluster.masterd(name, module="bench.harness.profiled", env=more) as url,
        Client(bench_cluster.cluster.endpoints, cluster=name) as client,
    ):
        await client.config_apply(current["inventory"])
        await poll_until(lambda: has_adopted(client), "the profiled master has its configuration")
        async with _clients(url) as send:
            for _ in range(3):
                await run_callers(send, _CALLERS, _SECONDS)
    return shares(stats)


def _profile_note(found: Shares) -> str:
    parts = ", ".join(f"{name} {part:.0%}" for name, part in found)
    return f"Where the CPU of a single HTTP request goes in the leader's Python, by a profiler: {parts}."
