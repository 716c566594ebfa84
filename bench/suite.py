"""The parts of a benchmark run, their order and their numbers of trials. A part that fails does not end the run."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.harness.baseline import baseline_at_leader
from bench.harness.cluster import BenchCluster, failure_reason
from bench.harness.curve import Point
from bench.harness.figures import Figure
from bench.harness.recorded import Recorded, load
from bench.measures import at_rest, cold_start, commands, nodes, overload, power, scenes, singles, starts
from bench.measures.failovers import Failovers
from nodectl.demo.interrupts import Ended, Signals
from nodectl.dev.cluster import DevCluster
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd

POWER = "power"
"""The part with hosts of its own. It runs last, after the cluster of the other parts has ended."""


@dataclass(frozen=True)
class Trials:
    """The number of trials of each part, or its duration in seconds (`_s`). with_tls: the parts that are measured over
    TLS too."""

    callers: tuple[int, ...] = commands.CALLERS
    rates: int = 15
    rate_s: float = 1.0
    commands: int = 1_000
    stored: int = 120_000
    desired: int = 500
    killed: int = 100
    paused: int = 100
    handed: int = 1_000
    cold: int = 20
    scenes: int = 20
    busy_s: float = 600.0
    rest_s: float = 120.0
    power: int = 20
    overload_s: float = 20.0
    with_tls: tuple[str, ...] = ("fresh", "commands", "memory", "nodes", "failovers")


QUICK = Trials(
    callers=commands.QUICK_CALLERS, rates=7, rate_s=0.6, commands=100, stored=14_000, desired=100, killed=6, paused=4,
    handed=15, cold=3, scenes=2, busy_s=20.0, rest_s=15.0, power=2, overload_s=6.0,
    with_tls=("commands",),
)  # fmt: skip


@dataclass
class BenchRun:
    """One run and its results.

    missing: why a figure was not measured, by its name. driven: as `curve`, while all nodeds run. with_tls: the run of
    the same parts in a cluster whose connections use TLS. is_tls: this is that run; its figures are not judged.
    """

    trials: Trials
    report: Callable[[str], None]
    recorded: Recorded = field(default_factory=load)
    _bench_cluster: BenchCluster | None = None
    figures: list[Figure] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    driven: list[Point] = field(default_factory=list)
    is_tls: bool = False
    with_tls: BenchRun | None = None

    @property
    def bench_cluster(self) -> BenchCluster:
        assert self._bench_cluster is not None
        return self._bench_cluster

    async def run_on_cluster(self, folder: Path, parts: Iterable[str]) -> None:
        """Start a cluster in `folder` and measure `parts`. A part that fails is reported and skipped."""
        cluster = DevCluster(folder / "cluster", tls=self.is_tls, die_with_parent=True, report=self.report)
        try:
            await cluster.up()
            async with cluster.client() as client, Etcd(cluster.etcd_settings()) as etcd:
                self._bench_cluster = BenchCluster(cluster, client, etcd, folder, self.report)
                for part in parts:
                    begun = time.monotonic()
                    try:
                        await PARTS[part](self)
                    except* (NodectlError, TimeoutError) as errors:  # a group, if a task of the part failed
                        self.notes.append(f"{part}: not measured: {failure_reason(errors)}")
                        self.report(self.notes[-1])
                    self.report(f"{part}: {time.monotonic() - begun:.0f} s")
        finally:
            await cluster.destroy()

    async def power(self, folder: Path) -> None:
        measured = await power.measure(folder, self.trials.power, self.report)
        self.figures += measured.figures
        self.missing |= measured.missing

    async def commands(self) -> None:
        cluster, trials = self.bench_cluster, self.trials
        await at_rest.create_documents(cluster)
        async with cluster.without_nodes(), baseline_at_leader(cluster) as baseline:
            self.curve = await commands.measure_curve(cluster, baseline, trials.callers, trials.rates, trials.rate_s)
            self.figures += commands.curve_figures(self.curve, await baseline.describe_member())
            self.figures += await commands.parts_of_a_command(cluster, baseline, trials.commands)
        async with baseline_at_leader(cluster) as baseline:
            self.driven = await commands.measure_curve(
                cluster, baseline, (commands.MANY,), max(3, trials.rates // 3), trials.rate_s
            )
            self.figures.append(commands.noded_figure(self.driven[0]))

    async def singles(self) -> None:
        cluster, trials = self.bench_cluster, self.trials
        async with cluster.without_nodes(), baseline_at_leader(cluster) as baseline:
            figure, note = await singles.single_requests(cluster, baseline, max(2, trials.rates // 2))
            self.figures.append(figure)
            self.notes.append(note)

    async def nodes(self) -> None:
        self.figures.append(await nodes.desired_to_driver(self.bench_cluster, self.trials.desired))

    async def fresh(self) -> None:
        failovers = Failovers(self.bench_cluster, is_fresh=True)
        await failovers.measure(self.trials.killed, 0, 0)
        self.figures += failovers.figures()
        self.missing |= failovers.missing()

    async def failovers(self) -> None:
        trials, failovers = self.trials, Failovers(self.bench_cluster)
        await at_rest.run_commands(self.bench_cluster, trials.stored)
        await failovers.measure(trials.killed, trials.paused, trials.handed)
        self.figures += failovers.figures()
        self.missing |= failovers.missing()

    async def starts(self) -> None:
        self.figures += await starts.starts(self.bench_cluster, self.recorded, self.trials.cold)

    async def cold(self) -> None:
        self.figures += await cold_start.cold_start(self.bench_cluster, self.trials.cold)

    async def memory(self) -> None:
        stored = await at_rest.run_commands(self.bench_cluster, self.trials.stored)
        self.figures += at_rest.memory(self.bench_cluster, stored)

    async def rest(self) -> None:
        self.figures += await at_rest.at_rest(self.bench_cluster, self.trials.rest_s)

    async def busy(self) -> None:
        self.figures.append(await at_rest.false_takeovers(self.bench_cluster, self.trials.busy_s))

    async def overload(self) -> None:
        async with self.bench_cluster.without_nodes():
            figures, notes = await overload.overload(self.bench_cluster, self.trials.overload_s)
        self.figures += figures
        self.notes += notes

    async def many(self) -> None:
        trials = self.trials.scenes
        hundred = await scenes.measure_scene(self.bench_cluster, 100, 10 * trials)  # as many changes as with 1,000
        thousand = await scenes.measure_scene(self.bench_cluster, 1_000, trials)
        self.figures += scenes.scene_figures(hundred, thousand)


PARTS: dict[str, Callable[[BenchRun], Awaitable[None]]] = {
    "fresh": BenchRun.fresh, "starts": BenchRun.starts, "commands": BenchRun.commands, "singles": BenchRun.singles,
    "memory": BenchRun.memory, "rest": BenchRun.rest, "nodes": BenchRun.nodes, "failovers": BenchRun.failovers,
    "busy": BenchRun.busy, "cold": BenchRun.cold, "overload": BenchRun.overload, "many": BenchRun.many,
}  # fmt: skip
"""In the order of the run: the fresh store first, memory after some work, rest before faults, large stores last."""


def run(trials: Trials, only: tuple[str, ...], report: Callable[[str], None]) -> BenchRun:
    """Measure all parts, or those in `only`. `report` receives a line for each step.

    Raises Ended after SIGINT or SIGTERM, once all processes of the clusters have ended.
    """
    bench, signals = BenchRun(trials, report), Signals()
    try:
        asyncio.run(_run(bench, only, signals))
    except (asyncio.CancelledError, KeyboardInterrupt):
        if signals.first is None:
            raise
        raise Ended(signals.first) from None
    return bench


async def _run(bench: BenchRun, only: tuple[str, ...], signals: Signals) -> None:
    """Run the parts in a cluster without TLS, some again in a cluster with TLS, and `power` last. One cluster at a
    time runs. The first signal cancels this; later ones change nothing."""
    parts = [part for part in only or tuple(PARTS) if part != POWER]
    with signals.handle_signals(), tempfile.TemporaryDirectory(prefix="nodectl-bench-") as name:
        folder = Path(name)
        if parts:
            await bench.run_on_cluster(folder / "plain", parts)
        if again := [part for part in parts if part in bench.trials.with_tls]:
            bench.with_tls = BenchRun(bench.trials, lambda line: bench.report(f"with TLS: {line}"), is_tls=True)
            await bench.with_tls.run_on_cluster(folder / "tls", again)
            bench.with_tls.figures = [replace(item, goals=()) for item in bench.with_tls.figures]
        if not only or POWER in only:
            await bench.power(folder)
