"""Overload: what a leader serves while clients that neither wait nor back off offer more than it can serve.

The rate of a cluster falls while it works at its limit for the first time, until the credit for bytes of etcd's raft
log is used up and the log is full (docs/overload.md). So it works at its limit for a while before anything is measured.
Each rate at five times the load is compared with the best rates right before and after it, because the cores are
shared with other programs.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from bench.harness.cluster import BenchCluster
from bench.harness.cpu_time import CpuMeter
from bench.harness.curve import NODED
from bench.harness.figures import Figure, figure, percentile
from bench.harness.goals import Goal
from bench.harness.load_process import offer_apart, saturate_apart
from bench.harness.open_loop import COMMANDS_A_REQUEST, LoadResult

FACTORS = (0.5, 1.0, 2.0)
MOST = 5.0
TRIALS_AT_MOST = 2
_CALLERS = 96
"""So many that the leader always has full batches to run. With 16, a fifth less was served."""
_MIB = 1 << 20


@dataclass
class _Overload:
    """The measurement of one leader. bests: the loads at the best rate. notes: a line for each load."""

    bench_cluster: BenchCluster
    url: str
    meter: CpuMeter
    seconds: float
    bests: list[LoadResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def best(self) -> float:
        """Measure and return the rate of callers that wait for their answers."""
        before = self.meter.read()
        load = await saturate_apart(self.url, secrets.token_hex(4), _CALLERS, self.seconds)
        self._note("best rate", load, self.meter.since(before).cpu_s)
        self.bests.append(load)
        return load.rate

    async def offered(self, factor: float, best: float) -> float:
        """Measure and return the rate that is served while `factor` times the best rate is offered."""
        before = self.meter.read()
        load = await offer_apart(self.url, secrets.token_hex(4), factor * best, self.seconds)
        self._note(f"{factor:g} times the best rate", load, self.meter.since(before).cpu_s)
        return load.rate

    def _note(self, what: str, load: LoadResult, cpu_s: Mapping[str, float]) -> None:
        used = {kind: spent for kind, spent in cpu_s.items() if kind not in (NODED, "client")}
        shares = ", ".join(f"{kind} {1e6 * spent / max(1, load.served):,.0f}" for kind, spent in used.items())
        self.notes.append(f"{what}: {_line(load)}; CPU time of a served command in us: {shares}")
        self.bench_cluster.report(self.notes[-1])


async def overload(bench_cluster: BenchCluster, seconds: float) -> tuple[list[Figure], list[str]]:
    """Measure the best rate, and the rates at multiples of it. Return the figures, and the curve as notes."""
    client = bench_cluster.client
    leader = await client.leader()
    process = bench_cluster.cluster.record.parts[leader.id].process
    assert process is not None
    terms = len(await client.terms())
    await saturate_apart(leader.url, secrets.token_hex(4), _CALLERS, seconds)
    measured = _Overload(bench_cluster, leader.url, CpuMeter(bench_cluster, leader.id), seconds)
    before = await measured.best()
    for factor in FACTORS:
        await measured.offered(factor, before)
    served: list[float] = []
    for _ in range(TRIALS_AT_MOST):
        rate, after = await measured.offered(MOST, before), await measured.best()
        served.append(100 * rate / statistics.fmean((before, after)))
        before = after
    takeovers = len(await client.terms()) - terms
    memory = psutil.Process(process.pid).memory_info().rss / _MIB
    bests = ", ".join(f"{load.rate:,.0f}" for load in measured.bests)
    how = (
        f"Requests of {COMMANDS_A_REQUEST} commands each. The best rates are {bests} commands a second, of {_CALLERS} "
        f"callers that wait for their answers, after {seconds:g} s of the same. Between them clients offer {MOST:g} "
        f"times as many at a fixed rate for {seconds:g} s, without waiting. The rate that is served is compared with "
        f"the mean of the best rates before and after. Afterwards the leader uses {memory:,.0f} MB."
    )
    figures = [
        figure("served at five times the load", served, "%", goals=[Goal("worst", "at least", 80.0)], how=how),
        figure("takeovers under overload", [float(takeovers)], "", goals=[Goal("worst", "at most", 0.0)], how=how),
    ]
    return figures, ["Overload:", *measured.notes]


def _line(load: LoadResult) -> str:
    latencies = sorted(load.latencies_s) or [0.0]
    lost = ", ".join(f"{count:,} {why}" for why, count in sorted(load.failures.items()))
    return (
        f"{load.offered / load.seconds:,.0f} offered, {load.rate:,.0f} served, "
        f"{load.refused / load.seconds:,.0f} refused, {(load.failed + load.unsent) / load.seconds:,.0f} lost a second"
        f"{f' ({lost})' if lost else ''}; answers within {percentile(latencies, 0.5) * 1e3:,.0f} ms (median), "
        f"{percentile(latencies, 0.99) * 1e3:,.0f} ms (p99)"
    )
