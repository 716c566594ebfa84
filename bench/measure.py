"""The measurements. Ours and the bare operation take turns, so that a noisy machine is noisy for both."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure
from nodectl import Client
from nodectl.dev.cluster import DevCluster
from noded import daemon, drivers
from noded.agent import Timing
from noded.drivers import Actual, Context
from noded.settings import Settings
from nodestore.errors import NodectlError
from nodestore.etcd import Etcd, EtcdSettings
from nodestore.jsonio import dumps
from nodestore.keys import Keys, prefix_end
from nodestore.models import Desired, Spec
from nodestore.watch import follow

_VALUE = b'{"node":"n1","values":{"text":"bench"}}'
_BLOCK = 20
_SETTLE_S = 60.0


async def _timed_ms(action: Callable[[], Awaitable[Any]]) -> float:
    begun = time.perf_counter()
    await action()
    return (time.perf_counter() - begun) * 1e3


async def one_command(client: Client, etcd: Etcd, trials: int) -> Figure:
    """One command after another, acknowledged, beside one put after another from the same process."""
    ours: list[float] = []
    bare: list[float] = []
    numbers = itertools.count()

    async def command() -> None:
        await client.node_set(f"n{next(numbers) % 9 + 1}", {"text": "bench"})

    for _ in range(max(1, trials // _BLOCK)):
        ours += [await _timed_ms(command) for _ in range(_BLOCK)]
        bare += [await _timed_ms(lambda: etcd.put("/bench/one", _VALUE)) for _ in range(_BLOCK)]
    return figure("one command through Client", ours, "ms", bare, "one bare etcd put")


async def many_commands(client: Client, etcd: Etcd, trials: int, callers: int = 64, each: int = 30) -> Figure:
    """Commands a second of 64 callers of one Client, beside puts a second with 64 in flight."""

    async def rate(action: Callable[[int], Awaitable[Any]]) -> float:
        async def caller(number: int) -> None:
            for _ in range(each):
                await action(number)

        begun = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(callers)))
        return callers * each / (time.perf_counter() - begun)

    ours: list[float] = []
    bare: list[float] = []
    for _ in range(trials):
        ours.append(await rate(lambda number: client.node_set(f"n{number % 9 + 1}", {"text": "bench"})))
        bare.append(await rate(lambda number: etcd.put(f"/bench/{number}", _VALUE)))
    return figure("commands of 64 callers of Client", ours, "1/s", bare, "bare puts, 64 in flight")


async def failover(cluster: DevCluster, client: Client, trials: int) -> Figure:
    """kill -9 of the leader under load: from the last acknowledged command before to the first after."""
    gaps = []
    for _ in range(trials):
        leader = (await client.leader()).id
        gaps.append(await _gap(client, lambda name=leader: cluster.kill(name)))  # type: ignore[misc]
        await cluster.start(leader)
        await _standby_again(client, leader)
    return figure("failover, leader process killed (-9)", gaps, "ms")


async def _gap(client: Client, hurt: Callable[[], Awaitable[None]]) -> float:
    acknowledged: list[float] = []
    stop = False

    async def caller(number: int) -> None:
        while not stop:
            await client.node_set(f"n{number + 1}", {"text": "bench"})
            acknowledged.append(time.perf_counter())

    async with asyncio.TaskGroup() as callers:
        for number in range(3):
            callers.create_task(caller(number))
        await asyncio.sleep(0.3)
        hurt_at = time.perf_counter()
        await hurt()
        async with asyncio.timeout(_SETTLE_S):
            while not acknowledged or acknowledged[-1] < hurt_at + 0.5:
                await asyncio.sleep(0.05)
        stop = True
    pairs = itertools.pairwise(acknowledged)
    return max((later - earlier for earlier, later in pairs if later > hurt_at), default=0.0) * 1e3


async def _standby_again(client: Client, name: str) -> None:
    async with asyncio.timeout(_SETTLE_S):
        while True:
            try:
                if any(view["id"] == name and view["role"] == "standby" for view in await client.masters()):
                    break
            except NodectlError:
                pass
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)  # its follow stream must stand before it can see the next death


class _Stamp:
    """A driver that does nothing but note when it was told."""

    settle_s = 0.0
    told: asyncio.Queue[float]

    def __init__(self, context: Context) -> None:
        del context

    async def inspect(self) -> Actual:
        return Actual()

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        del previous
        self.told.put_nowait(time.perf_counter())

    async def stop(self) -> None:
        return


async def desired_to_driver(etcd: Etcd, endpoints: tuple[str, ...], work_dir: Path, trials: int) -> Figure:
    """A put of `desired/<node>` until noded calls its driver, beside the same put until a bare watch shows it.

    noded runs in this process, all of it but its program, so that both are timed by one clock.
    """
    keys = Keys("bench")
    ours: list[float] = []
    bare: list[float] = []
    async with _noded(keys, endpoints, work_dir), _bare_watch(etcd, keys.desired_of("bare")) as seen:
        for generation in range(1, trials + 1):
            spec = Spec(driver="stamp", document={"generation": generation})
            value = dumps(Desired(epoch=1, term=1, generation=generation, spec=spec).model_dump(mode="json"))
            for node, queue, times in (("n1", _Stamp.told, ours), ("bare", seen, bare)):
                begun = time.perf_counter()
                await etcd.put(keys.desired_of(node), value)
                async with asyncio.timeout(_SETTLE_S):
                    times.append((await queue.get() - begun) * 1e3)
    return figure("desired change to driver called", ours, "ms", bare, "a bare etcd watch")


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
