"""Nodes: from a change of the desired state to the driver, and a scene to 1,000 watching nodes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

from bench.commands import adopted
from bench.figures import Figure, figure
from bench.ground import SETTLE_S, Ground, until
from nodectl import Client
from noded import daemon, drivers
from noded.agent import Timing
from noded.drivers import Actual, Context
from noded.settings import Settings
from nodestore import procs
from nodestore.errors import NodectlError
from nodestore.etcd import Etcd, EtcdSettings
from nodestore.jsonio import dumps, loads
from nodestore.keys import Keys, prefix_end
from nodestore.models import Desired, Spec
from nodestore.watch import follow

_CALM_S = 0.03
"""After a driver was called noded writes its status, which must not be in the way of the next measurement."""
_WATCHERS = 4
"""Processes that share the simulated nodes."""


class _Stamp:
    """A driver that does nothing but note when it was told."""

    settle_s = 0.0
    told: asyncio.Queue[float]

    def __init__(self, context: Context) -> None:
        del context

    async def inspect(self) -> Actual:
        return Actual()

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        del spec, previous
        self.told.put_nowait(time.perf_counter())

    async def stop(self) -> None:
        return


async def desired_to_driver(ground: Ground, trials: int) -> Figure:
    """A put of `desired/<node>` until noded calls its driver, beside the same put until a bare watch shows it.

    noded runs in this process, all of it but its program, so that both are timed by one clock.
    """
    keys, etcd, endpoints = Keys("bench"), ground.etcd, ground.cluster.endpoints
    ours: list[float] = []
    bare: list[float] = []
    async with _noded(keys, endpoints, ground.folder / "noded"), _bare_watch(etcd, keys.desired_of("bare")) as seen:
        for generation in range(1, trials + 1):
            spec = Spec(driver="stamp", document={"generation": generation})
            value = dumps(Desired(epoch=1, term=1, generation=generation, spec=spec).model_dump(mode="json"))
            for node, queue, times in (("n1", _Stamp.told, ours), ("bare", seen, bare)):
                begun = time.perf_counter()
                await etcd.put(keys.desired_of(node), value)
                async with asyncio.timeout(SETTLE_S):
                    times.append((await queue.get() - begun) * 1e3)
                await asyncio.sleep(_CALM_S)
    return figure(
        "desired state to driver called", ours, "ms", bare, "a bare etcd watch", goal="at most 1.5x",
        how="From the put of `desired/<node>` to the call of the driver, noded's check of its claim and plan included; "
        "beside it the same put until a watch of that key shows it in the same process.",
    )  # fmt: skip


@asynccontextmanager
async def _noded(keys: Keys, endpoints: tuple[str, ...], work_dir: Path) -> AsyncIterator[None]:
    _Stamp.told = asyncio.Queue()
    settings = Settings("n1", keys.cluster, EtcdSettings(endpoints), work_dir, "bench", 2, Timing(), "warning")
    real, drivers.load = drivers.load, lambda name: _Stamp
    running = asyncio.create_task(daemon.run(settings))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        drivers.load = real


@asynccontextmanager
async def _bare_watch(etcd: Etcd, key: str) -> AsyncIterator[asyncio.Queue[float]]:
    seen: asyncio.Queue[float] = asyncio.Queue()
    revision = (await etcd.range(key, limit=1)).revision

    async def watch() -> None:
        async with aclosing(follow(etcd, key, end=prefix_end(key), revision=revision + 1)) as stream:
            async for changes in stream:
                for _ in changes.events:
                    seen.put_nowait(time.perf_counter())

    running = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# --- many nodes -----------------------------------------------------------------------------------------------------


async def watching_nodes(ground: Ground, count: int, trials: int) -> list[float]:
    """For each trial and node, in ms: from sending `scene.apply` for all to the change at the node.

    The nodes are simulated by a few processes (bench/watchers.py): each watches its own key and writes its status.
    """
    cluster = f"watched-{count}"
    names = [f"n{number:04}" for number in range(count)]
    inventory = {"masters": {"b1": {}}, "nodes": {name: {} for name in names}, "defaults": {"driver": {"name": "exec"}}}
    latencies: list[float] = []
    async with (
        ground.masterd(cluster),
        Client(ground.cluster.endpoints, cluster=cluster, command_timeout_s=60.0) as client,
        _watchers(ground, cluster, names) as watchers,
    ):
        await client.config_apply(inventory)
        await until(lambda: adopted(client), f"{count} nodes are configured")
        await watchers.all_have_seen(0)
        for trial in range(trials):
            await client.scene_save("s", {name: {"text": f"{name} {trial}"} for name in names})
            begun = time.perf_counter()
            done = await client.scene_apply("s")
            latencies += [(at - begun) * 1e3 for at in await watchers.all_have_seen(done.index)]
    return latencies


def watched(hundred: list[float], thousand: list[float], trials: int) -> list[Figure]:
    """Both numbers of nodes, the larger beside the smaller."""
    how = (
        f"One scene.apply for all nodes, {trials} times; for each node from sending it to the change at the node. "
        f"Simulated by {_WATCHERS} processes on the same cores: a watch of its own and a status written for each node."
    )
    return [
        figure("a scene to 100 watching nodes", hundred, "ms", how=how),
        figure("a scene to 1,000 watching nodes", thousand, "ms", hundred, "100 nodes", how=how),
    ]


class _Watchers:
    """The processes, and what they say."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen: dict[str, tuple[int, float]] = {}
        self._changed = asyncio.Event()

    async def read(self, child: procs.Child) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            told = loads(line)
            self._seen[told["node"]] = (told["generation"], told["at"])
            self._changed.set()
        raise NodectlError(f"a process of simulated nodes has ended with code {await child.wait()}")

    async def all_have_seen(self, generation: int) -> list[float]:
        """When each has seen this generation or a newer one."""
        async with asyncio.timeout(SETTLE_S):
            while len(self._seen) < self._count or any(seen < generation for seen, _ in self._seen.values()):
                self._changed.clear()
                await self._changed.wait()
        return [at for _, at in self._seen.values()]


@asynccontextmanager
async def _watchers(ground: Ground, cluster: str, names: list[str]) -> AsyncIterator[_Watchers]:
    watchers = _Watchers(len(names))
    async with AsyncExitStack() as stack:
        readers = await stack.enter_async_context(asyncio.TaskGroup())
        for number in range(_WATCHERS):
            argv = [sys.executable, "-m", "bench.watchers", ",".join(ground.cluster.endpoints), cluster]
            child = await procs.spawn([*argv, *names[number::_WATCHERS]], stdout=procs.PIPE, die_with_parent=True)
            stack.push_async_callback(child.stop, 2.0)
            task = readers.create_task(watchers.read(child))
            stack.callback(task.cancel)
        yield watchers
