"""Commands compared with puts: sent one at a time, and by 64 concurrent callers of one Client.

Commands and puts alternate, equally often and both after a warm-up, so that noise of the machine affects both. Each
command changes its node's document, and so its spec.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from bench.harness.baseline import Baseline
from bench.harness.cluster import VALUE, BenchCluster, in_turns
from bench.harness.costs import CpuPerCommand, format_us, make_request, make_transaction
from bench.harness.figures import Figure, figure
from bench.harness.goals import Goal
from nodectl import Client
from nodectl.client.connection.results import CommandResult
from nodestore.etcd.session import Etcd

CALLERS = 64
PUTS = "bare puts, 64 in flight"
_BLOCK = 20
_EACH = 60
_PUT = "one bare etcd put"

_numbers = itertools.count()


def next_command() -> tuple[str, dict[str, str]]:
    """Return a node and values that differ from its current ones."""
    number = next(_numbers)
    return f"n{number % 9 + 1}", {"text": f"bench {number}"}


async def send_command(client: Client) -> CommandResult:
    return await client.node_set(*next_command())


async def one_command(bench_cluster: BenchCluster, baseline: Baseline, trials: int) -> list[Figure]:
    """Measure acknowledged commands one after another, compared with puts from the same process, and their parts."""
    client, etcd = bench_cluster.client, baseline.etcd
    leader = await client.leader()
    for _ in range(_BLOCK):
        await send_command(client)
    cpu = CpuPerCommand(bench_cluster, leader.id)
    for _ in range(trials):
        await send_command(client)
    used = format_us(cpu.per_command_us(trials))
    async with aiohttp.ClientSession() as session:
        actions = {
            "command": lambda: send_command(client), "put": lambda: etcd.put("/bench/one", VALUE),
            "transaction": make_transaction(etcd), "request": make_request(session, leader.url),
        }  # fmt: skip
        ms = await in_turns(actions, trials, _BLOCK)
    turns = f"In alternating blocks of {_BLOCK} with the commands and the puts, from the same process."
    return [
        figure(
            "one command through Client", ms["command"], "ms", ms["put"], _PUT, goals=[Goal("ratio", "at most", 1.5)],
            how="One caller sends one command after the other, each when the last is acknowledged; puts likewise, in "
            f"alternating blocks of {_BLOCK}, from the same process. No noded runs; three masterds and three members "
            f"do. {await baseline.describe_member()} {used}",
        ),
        figure(
            "of it: the transaction alone", ms["transaction"], "ms", ms["put"], _PUT,
            how="One transaction of three compares and five puts, with the sizes of a command of the built-in "
            f"application, in the same session as the puts. {turns}",
        ),
        figure(
            "of it: the HTTP request alone", ms["request"], "ms", ms["put"], _PUT,
            how=f"GET /v1/health on a connection that is kept open, with the same libraries. {turns}",
        ),
    ]  # fmt: skip


async def many_commands(bench_cluster: BenchCluster, baseline: Baseline, trials: int) -> Figure:
    """Measure commands a second of 64 callers of one Client, compared with puts a second with 64 in flight."""
    ours, bare = lambda _: send_command(bench_cluster.client), make_put(baseline.etcd)
    await rates(ours, bare, 1, _EACH)
    cpu = CpuPerCommand(bench_cluster, (await bench_cluster.client.leader()).id)
    await rate(ours, _EACH)
    used = format_us(cpu.per_command_us(CALLERS * _EACH))
    found, puts = await rates(ours, bare, trials, _EACH)
    return figure(
        "commands of 64 callers of one Client", found, "1/s", puts, PUTS, goals=[Goal("ratio", "at least", 3.0)],
        how="64 tasks share one Client; each sends its next command when the last is acknowledged. The puts have 64 in "
        f"flight in the same way. In a trial each task sends {_EACH} commands, then {_EACH} puts; a first trial is a "
        f"warm-up and is not counted. No noded runs. {await baseline.describe_member()} {used}",
    )  # fmt: skip


def make_put(etcd: Etcd) -> Callable[[int], Awaitable[Any]]:
    """Return an action by which each caller puts a key of its own."""
    return lambda number: etcd.put(f"/bench/{number}", VALUE)


async def rates(
    ours: Callable[[int], Awaitable[Any]], bare: Callable[[int], Awaitable[Any]], trials: int, each: int
) -> tuple[list[float], list[float]]:
    """Measure the rates of both actions in turns, with the same number of calls."""
    ours_per_s: list[float] = []
    bare_per_s: list[float] = []
    for _ in range(trials):
        ours_per_s.append(await rate(ours, each))
        bare_per_s.append(await rate(bare, each))
    return ours_per_s, bare_per_s


async def rate(action: Callable[[int], Awaitable[Any]], each: int) -> float:
    """Return the calls a second of 64 callers, each of which passes its number and makes `each` calls."""

    async def caller(number: int) -> None:
        for _ in range(each):
            await action(number)

    begun = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return CALLERS * each / (time.perf_counter() - begun)
