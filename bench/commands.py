"""Commands beside puts: one at a time, of 64 callers of one Client, and of 64 clients that send one a request.

Ours and the bare operation take turns, so that a noisy machine is noisy for both. Each command changes its node's
document, and so its spec: nothing is measured that does nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import psutil

from bench.costs import Cpu, request_alone, told, transaction_alone
from bench.figures import Figure, figure
from bench.ground import VALUE, Ground, timed_ms, until
from bench.profiled import Shares, shares
from nodectl import Client
from nodectl.client.wire import CommandResult
from nodestore.errors import NodectlError
from nodestore.jsonio import dumps

_BLOCK = 20
_CALLERS = 64
_EACH = 30

_numbers = itertools.count()


async def command(client: Client) -> CommandResult:
    number = next(_numbers)
    return await client.node_set(f"n{number % 9 + 1}", {"text": f"bench {number}"})


async def one_command(ground: Ground, trials: int) -> list[Figure]:
    """One command after another, acknowledged, beside one put after another from the same process; and its parts."""
    client, etcd = ground.client, ground.etcd
    leader = await client.leader()
    for _ in range(_BLOCK):
        await command(client)
    cpu = Cpu(ground, leader.id)
    for _ in range(trials):
        await command(client)
    used = told(cpu.a_command(trials))
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(max(1, trials // _BLOCK)):
        ours += [await timed_ms(lambda: command(client)) for _ in range(_BLOCK)]
        bare += [await timed_ms(lambda: etcd.put("/bench/one", VALUE)) for _ in range(_BLOCK)]
    whole = figure(
        "one command through Client", ours, "ms", bare, "one bare etcd put", goal="at most 1.5x",
        how="One caller, one command after the other, each acknowledged; puts likewise, in turns of 20, from the same "
        f"process. No noded runs; three masterds and three members do. {used}",
    )  # fmt: skip
    return [whole, await transaction_alone(etcd, trials, bare), await request_alone(leader.url, trials, bare)]


async def many_commands(ground: Ground, trials: int) -> Figure:
    """Commands a second of 64 callers of one Client, beside puts a second with 64 in flight."""
    client, etcd = ground.client, ground.etcd
    cpu = Cpu(ground, (await client.leader()).id)
    await _rate(lambda _: command(client), _EACH * 2)
    used = told(cpu.a_command(_CALLERS * _EACH * 2))
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(trials):
        ours.append(await _rate(lambda _: command(client), _EACH * 2))
        bare.append(await _rate(lambda number: etcd.put(f"/bench/{number}", VALUE), _EACH))
    return figure(
        "commands of 64 callers of one Client", ours, "1/s", bare, "bare puts, 64 in flight", goal="at least 3x",
        how="64 tasks share one Client, each sends its next command when the last is acknowledged; the puts have 64 in "
        f"flight in the same way. No noded runs. {used}",
    )  # fmt: skip


async def _rate(action: Callable[[int], Awaitable[Any]], each: int) -> float:
    async def caller(number: int) -> None:
        for _ in range(each):
            await action(number)

    begun = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(_CALLERS)))
    return _CALLERS * each / (time.perf_counter() - begun)


class _Plain:
    """A client that knows one master, has a connection of its own, and sends one command a request."""

    def __init__(self, url: str) -> None:
        self._url = url + "/v1/commands"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))

    async def command(self) -> None:
        number = next(_numbers)
        values = {"text": f"bench {number}"}
        body = dumps({"name": "node.set", "args": {"node": f"n{number % 9 + 1}", "values": values}, "actor": "bench"})
        async with self._session.post(self._url, data=body, headers={"Content-Type": "application/json"}) as answer:
            if answer.status != 200:
                raise NodectlError(f"{self._url} answered {answer.status}: {await answer.text()}")
            await answer.read()

    async def close(self) -> None:
        await self._session.close()


async def single_requests(ground: Ground, trials: int) -> tuple[Figure, str]:
    """64 HTTP clients, each with a connection of its own; and where the master's CPU goes, from a profiled one."""
    leader = await ground.client.leader()
    process = ground.cluster.processes[leader.id].process
    assert process is not None
    ours, bare, used_us = await _singles(ground, leader.url, trials, psutil.Process(process.pid))
    measured = figure(
        "commands of 64 HTTP clients, one a request", ours, "1/s", bare, "bare puts, 64 in flight",
        how=f"64 connections, one command a request, answered before the next is sent. A request costs the leader "
        f"{used_us:.0f} us of CPU.",
    )  # fmt: skip
    return measured, _profile_note(await _profiled(ground))


async def _singles(
    ground: Ground, url: str, trials: int, process: psutil.Process | None
) -> tuple[list[float], list[float], float]:
    """Rates of ours and of bare puts, and the CPU that a request cost `process`, in us."""
    clients = [_Plain(url) for _ in range(_CALLERS)]
    ours: list[float] = []
    bare: list[float] = []
    used_s = 0.0
    try:
        for _ in range(trials):
            before = _cpu_s(process)
            ours.append(await _rate(lambda number: clients[number].command(), _EACH))
            used_s += _cpu_s(process) - before
            bare.append(await _rate(lambda number: ground.etcd.put(f"/bench/{number}", VALUE), _EACH))
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    return ours, bare, used_s / (trials * _CALLERS * _EACH) * 1e6


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    used = process.cpu_times()
    return float(used.user + used.system)


async def _profiled(ground: Ground) -> Shares:
    """Another masterd, under a profiler, in a cluster of its own, with the same configuration."""
    current = (await ground.client.config())["current"]
    assert current is not None
    name, stats = "profiled", ground.folder / "profiled.stats"
    more = {"NODECTL_BENCH_PROFILE": str(stats)}
    async with (
        ground.masterd(name, module="bench.profiled", env=more) as url,
        Client(ground.cluster.endpoints, cluster=name) as client,
    ):
        await client.config_apply(current["inventory"])
        await until(lambda: adopted(client), "the profiled master has its configuration")
        await _singles(ground, url, 2, None)
    return shares(stats)


async def adopted(client: Client) -> bool:
    return (await client.config())["adopted"] is not None


def _profile_note(found: Shares) -> str:
    parts = ", ".join(f"{name} {part:.0%}" for name, part in found)
    return f"Where the CPU of a single HTTP request goes in the leader's Python, by a profiler: {parts}."
