"""The latency of a node: from a change of its desired state to the call of its driver."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from bench.harness.baseline import baseline_at_leader
from bench.harness.cluster import WAIT_TIMEOUT_S, BenchCluster
from bench.harness.figures import Figure, figure
from bench.harness.goals import Goal
from noded import daemon
from noded.drivers import contract
from noded.drivers.contract import Actual, Context
from noded.reconcile.agent import AgentTiming
from noded.settings import Settings
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.etcd.watch import follow
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Desired, Spec
from nodestore.support.jsonio import dumps

_CALM_S = 0.03
"""Pause after a driver's call: noded then writes its status, which must not disturb the next trial."""


class _TimestampDriver:
    """A driver that only records when it was called."""

    settle_s = 0.0
    applied_at: asyncio.Queue[float]

    def __init__(self, context: Context) -> None:
        del context

    async def inspect(self) -> Actual:
        return Actual()

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        del spec, previous
        self.applied_at.put_nowait(time.perf_counter())

    async def stop(self) -> None:
        return


async def desired_to_driver(bench_cluster: BenchCluster, trials: int) -> Figure:
    """Measure from a put of `desired/<node>` until noded calls its driver. Baseline: the same put to a bare watch.

    noded runs in this process (without its command line), so that one clock times both. All use the same etcd member.
    """
    keys = Keys("bench")
    ours: list[float] = []
    bare: list[float] = []
    async with (
        baseline_at_leader(bench_cluster) as baseline,
        _noded(keys, bench_cluster.etcd_settings(baseline.endpoints), bench_cluster.folder / "noded"),
        _bare_watch(baseline.etcd, keys.desired_of("bare")) as watched_at,
    ):
        for generation in range(trials + 1):
            spec = Spec(driver="stamp", document={"generation": generation})
            value = dumps(Desired(epoch=1, term=1, generation=generation + 1, spec=spec).model_dump(mode="json"))
            for node, queue, times in (("n1", _TimestampDriver.applied_at, ours), ("bare", watched_at, bare)):
                begun = time.perf_counter()
                await baseline.etcd.put(keys.desired_of(node), value)
                async with asyncio.timeout(WAIT_TIMEOUT_S):
                    times.append((await queue.get() - begun) * 1e3)
                await asyncio.sleep(_CALM_S)
        member = await baseline.describe_member()
    return figure(
        "desired state to driver called", ours[1:], "ms", bare[1:], "a bare etcd watch",
        goals=[Goal("ratio", "at most", 1.5)],
        how="From the put of `desired/<node>` to the call of the driver, including noded's check of its claim and its "
        "plan. The baseline is the time from the same put until a watch of the key shows it, in the same process. The "
        f"two alternate; the first trial of each is a warm-up and is not counted. noded uses the same member. {member}",
    )  # fmt: skip


@asynccontextmanager
async def _noded(keys: Keys, etcd: EtcdSettings, work_dir: Path) -> AsyncIterator[None]:
    _TimestampDriver.applied_at = asyncio.Queue()
    settings = Settings(
        node="n1",
        cluster=keys.cluster,
        etcd=etcd,
        work_dir=work_dir,
        host_id="bench",
        lease_ttl_s=2,
        timing=AgentTiming(),
        log_level="warning",
    )
    real, contract.load = contract.load, lambda name: _TimestampDriver
    running = asyncio.create_task(daemon.run(settings))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        contract.load = real


@asynccontextmanager
async def _bare_watch(etcd: Etcd, key: str) -> AsyncIterator[asyncio.Queue[float]]:
    watched_at: asyncio.Queue[float] = asyncio.Queue()
    revision = (await etcd.range(key, limit=1)).revision

    async def watch() -> None:
        async with aclosing(follow(etcd, key, end=prefix_end(key), revision=revision + 1)) as stream:
            async for changes in stream:
                for _ in changes.events:
                    watched_at.put_nowait(time.perf_counter())

    running = asyncio.create_task(watch())
    try:
        yield watched_at
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
