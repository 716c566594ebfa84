"""Overload: what a leader serves while clients that neither wait nor back off offer more than it can serve."""

from __future__ import annotations

import secrets

import psutil

from bench.harness.cluster import BenchCluster
from bench.harness.figures import Figure, figure, percentile
from bench.harness.goals import Goal
from bench.harness.load_process import offer_apart, saturate_apart
from bench.harness.open_loop import COMMANDS_A_REQUEST, LoadResult

FACTORS = (0.5, 1.0, 2.0, 5.0)
_CALLERS = 16
_MIB = 1 << 20


async def overload(bench_cluster: BenchCluster, seconds: float) -> tuple[list[Figure], list[str]]:
    """Measure the best rate, then the rates at multiples of it. Return the figures, and the curve as notes."""
    client = bench_cluster.client
    leader = await client.leader()
    process = bench_cluster.cluster.record.parts[leader.id].process
    assert process is not None
    terms = len(await client.terms())
    best = await saturate_apart(leader.url, secrets.token_hex(4), _CALLERS, seconds)
    curve: list[tuple[float, LoadResult]] = []
    for factor in FACTORS:
        load = await offer_apart(leader.url, secrets.token_hex(4), factor * best.rate, seconds)
        curve.append((factor, load))
        bench_cluster.report(_line(factor, load))
    takeovers = len(await client.terms()) - terms
    served = [100 * load.rate / best.rate for factor, load in curve if factor == FACTORS[-1]]
    memory = psutil.Process(process.pid).memory_info().rss / _MIB
    how = (
        f"Requests of {COMMANDS_A_REQUEST} commands each. The best rate is {best.rate:,.0f} commands a second, of "
        f"{_CALLERS} callers that wait for their answers. Then clients offer {FACTORS[-1]:g} times as many "
        f"at a fixed rate for {seconds:g} s, without waiting. Afterwards the leader uses {memory:,.0f} MB."
    )
    figures = [
        figure("served at five times the load", served, "%", goals=[Goal("worst", "at least", 80.0)], how=how),
        figure("takeovers under overload", [float(takeovers)], "", goals=[Goal("worst", "at most", 0.0)], how=how),
    ]
    return figures, ["Overload:", *(_line(factor, load) for factor, load in curve)]


def _line(factor: float, load: LoadResult) -> str:
    latencies = sorted(load.latencies_s) or [0.0]
    return (
        f"{factor:g} times the best rate: {load.offered / load.seconds:,.0f} offered, {load.rate:,.0f} served, "
        f"{load.refused / load.seconds:,.0f} refused, {(load.failed + load.unsent) / load.seconds:,.0f} lost a second; "
        f"answers within {percentile(latencies, 0.5) * 1e3:,.0f} ms (median), {percentile(latencies, 0.99) * 1e3:,.0f} "
        "ms (p99)"
    )
