"""Scenes for 1,000 simulated nodes, and the costs per node compared with 100 nodes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import psutil

from bench.harness.cluster import WAIT_TIMEOUT_S, BenchCluster, has_adopted, poll_until
from bench.harness.figures import Figure, figure
from bench.harness.goals import Goal
from nodectl import Client
from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.support.jsonio import loads

_CALM_S = 0.03
_WATCHERS = 4
"""Processes that share the simulated nodes."""
_BEFORE_REST_S = 2.0
_REST_S = 4.0
_COST_LIMIT = Goal("ratio", "at most", 1.2)
_BASELINE = "100 nodes"


@dataclass(frozen=True)
class SceneMeasurement:
    """The measurements of scenes for `count` nodes.

    latencies_ms: for each trial and node, from sending `scene.apply` to the change at the node. per_node_ms: for each
    trial, the time until the last change, divided by `count`. cpu_us: CPU time of the leader and of the members for
    each node and trial until the statuses are written, less their CPU time at rest.
    """

    count: int
    latencies_ms: list[float]
    per_node_ms: list[float]
    cpu_us: dict[str, float]


async def measure_scene(bench_cluster: BenchCluster, count: int, trials: int) -> SceneMeasurement:
    """Apply scenes to `count` nodes that a few processes simulate (bench/measures/watchers.py)."""
    cluster = f"watched-{count}"
    names = [f"n{number:04}" for number in range(count)]
    inventory = {"masters": {"b1": {}}, "nodes": {name: {} for name in names}, "defaults": {"driver": {"name": "exec"}}}
    latencies: list[float] = []
    totals: list[float] = []
    async with (
        bench_cluster.masterd(cluster),
        Client(bench_cluster.cluster.endpoints, cluster=cluster, command_timeout_s=60.0) as client,
        _watchers(bench_cluster, cluster, names) as watchers,
    ):
        await client.config_apply(inventory)
        await poll_until(lambda: has_adopted(client), f"{count} nodes are configured")
        await watchers.all_have_seen(0)
        cpu = _ClusterCpu(bench_cluster, cluster)
        await cpu.measure_rest()
        for trial in range(trials + 1):
            await client.scene_save("s", {name: {"text": f"{name} {trial}"} for name in names})
            await asyncio.sleep(_CALM_S)
            cpu.begin()
            begun = time.perf_counter()
            done = await client.scene_apply("s")
            latencies_ms = [(at - begun) * 1e3 for at in await watchers.all_have_seen(done.index)]
            await watchers.all_have_reported(done.index)
            if trial == 0:
                continue  # a warm-up
            cpu.end()
            latencies += latencies_ms
            totals.append(max(latencies_ms) / count)
    return SceneMeasurement(
        count, latencies, totals, {name: took_s * 1e6 / (trials * count) for name, took_s in cpu.took_s()}
    )


class _ClusterCpu:
    """CPU seconds of a cluster's masterd and of the members, summed over several spans, less their use at rest."""

    def __init__(self, bench_cluster: BenchCluster, cluster: str) -> None:
        ours = [child for child in psutil.Process().children() if cluster in child.cmdline()]
        self._kinds = {
            "leader": [child for child in ours if "masterd" in child.cmdline()],
            "members": [
                psutil.Process(part.process.pid)
                for part in bench_cluster.cluster.record.parts_of("etcd").values()
                if part.process is not None
            ],
        }
        self._rest: dict[str, float] = {}
        self._took = dict.fromkeys(self._kinds, 0.0)
        self._begun: tuple[float, dict[str, float]] = (0.0, {})

    def _now(self) -> tuple[float, dict[str, float]]:
        used = {kind: sum(sum(p.cpu_times()[:2]) for p in found) for kind, found in self._kinds.items()}
        return time.monotonic(), used

    async def measure_rest(self) -> None:
        """Measure the CPU time that the processes use while no request is sent."""
        await asyncio.sleep(_BEFORE_REST_S)
        at, used = self._now()
        await asyncio.sleep(_REST_S)
        later, now = self._now()
        self._rest = {kind: (now[kind] - used[kind]) / (later - at) for kind in used}

    def begin(self) -> None:
        self._begun = self._now()

    def end(self) -> None:
        (at, used), (later, now) = self._begun, self._now()
        for kind in used:
            self._took[kind] += now[kind] - used[kind] - self._rest[kind] * (later - at)

    def took_s(self) -> list[tuple[str, float]]:
        return list(self._took.items())


def scene_figures(hundred: SceneMeasurement, thousand: SceneMeasurement) -> list[Figure]:
    """Return the figures of both numbers of nodes, the larger compared with the smaller."""
    before = "The baseline of 100 nodes was measured right before, not in alternation."
    cpu = "CPU time until all statuses are written, less that at rest, divided by the numbers of nodes and scenes."
    figures = [
        figure("a scene to 100 watching nodes", hundred.latencies_ms, "ms", how=_how(hundred)),
        figure(
            "a scene to 1,000 watching nodes", thousand.latencies_ms, "ms", hundred.latencies_ms, _BASELINE,
            goals=[Goal("p99", "under", 2_000.0)], how=f"{_how(thousand)} {before}",
        ),
        figure(
            "a scene to 1,000 nodes, time until the last one by nodes", thousand.per_node_ms, "ms", hundred.per_node_ms,
            _BASELINE, goals=[_COST_LIMIT],
            how=f"{_how(thousand)} For each scene: the time until all nodes have it, divided by their number. {before}",
        ),
    ]  # fmt: skip
    for kind, name in (("leader", "CPU of the leader"), ("members", "CPU of etcd's members")):
        figures.append(
            figure(
                f"a scene to 1,000 nodes, {name} by nodes", [thousand.cpu_us[kind]], "us", [hundred.cpu_us[kind]],
                _BASELINE, goals=[_COST_LIMIT], how=f"{_how(thousand)} {cpu} {before}",
            )
        )  # fmt: skip
    return figures


def _how(found: SceneMeasurement) -> str:
    return (
        f"One scene.apply for all {found.count:,} nodes: {len(found.per_node_ms):,} scenes, "
        f"{len(found.latencies_ms):,} changes. Each change is timed from sending the command until the node's watch "
        f"shows it. {_WATCHERS} processes on the same cores simulate the nodes; each node has a watch of its own and "
        "writes its status."
    )


class _Watchers:
    """The processes that simulate nodes, and their output."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen: dict[str, tuple[int, float]] = {}
        self._reported: dict[str, int] = {}
        self._changed = asyncio.Event()

    async def read(self, child: child_processes.Child) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            event = loads(line)
            if "reported" in event:
                self._reported[event["node"]] = event["reported"]
            else:
                self._seen[event["node"]] = (event["generation"], event["at"])
            self._changed.set()
        raise NodectlError(f"a process of simulated nodes has ended with code {await child.wait()}")

    async def all_have_seen(self, generation: int) -> list[float]:
        """Wait until each node has seen this generation or a newer one; return the times."""
        await self._wait_for(lambda: [seen for seen, _ in self._seen.values()], generation)
        return [at for _, at in self._seen.values()]

    async def all_have_reported(self, generation: int) -> None:
        """Wait until each node has written its status for this generation or a newer one."""
        await self._wait_for(self._reported.values, generation)

    async def _wait_for(self, generations: Callable[[], Collection[int]], generation: int) -> None:
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while len(generations()) < self._count or min(generations()) < generation:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def _watchers(bench_cluster: BenchCluster, cluster: str, names: list[str]) -> AsyncIterator[_Watchers]:
    watchers = _Watchers(len(names))
    async with AsyncExitStack() as stack:
        readers = await stack.enter_async_context(asyncio.TaskGroup())
        for number in range(_WATCHERS):
            argv = [sys.executable, "-m", "bench.measures.watchers", ",".join(bench_cluster.cluster.endpoints), cluster]
            child = await child_processes.spawn(
                [*argv, *names[number::_WATCHERS]], stdout=child_processes.PIPE, die_with_parent=True
            )
            stack.push_async_callback(child.stop, 2.0)
            task = readers.create_task(watchers.read(child))
            stack.callback(task.cancel)
        yield watchers
