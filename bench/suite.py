"""The parts of a run: how often each is measured, and in which order. A part that fails does not end the others."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.baseline import beside_leader
from bench.harness.cluster import Ground, reason
from bench.harness.figures import Figure
from bench.measures import at_rest, cold_start, commands, nodes, power, scenes, singles
from bench.measures.failovers import Failovers
from nodectl.dev.cluster import DevCluster
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, EtcdSettings

POWER = "power"
"""The part that has hosts of its own: it comes last, when the cluster of the others is gone."""


@dataclass(frozen=True)
class Trials:
    """How often each is measured, or for how many seconds."""

    commands: int = 1_000
    rates: int = 15
    desired: int = 500
    killed: int = 100
    paused: int = 100
    handed: int = 1_000
    cold: int = 20
    scenes: int = 20
    busy_s: float = 600.0
    rest_s: float = 120.0
    power: int = 20


QUICK = Trials(
    commands=200, rates=3, desired=100, killed=6, paused=4, handed=15, cold=3, scenes=2, busy_s=20.0, rest_s=15.0,
    power=2,
)  # fmt: skip


@dataclass
class Bench:
    """One run: what is to be measured, and what was. missing: why something was not, by its name."""

    trials: Trials
    say: Callable[[str], None]
    _ground: Ground | None = None
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def ground(self) -> Ground:
        assert self._ground is not None
        return self._ground

    async def on_a_cluster(self, folder: Path, parts: Iterable[str]) -> None:
        """A part that fails is told and left out; the others go on."""
        cluster = DevCluster(folder / "cluster", tied=True, say=self.say)
        try:
            await cluster.up()
            async with cluster.client() as client, Etcd(EtcdSettings(cluster.endpoints)) as etcd:
                self._ground = Ground(cluster, client, etcd, folder, self.say)
                for part in parts:
                    begun = time.monotonic()
                    try:
                        await PARTS[part](self)
                    except* (NodectlError, TimeoutError) as errors:  # in a group when a task of it had failed
                        self.notes.append(f"{part}: not measured: {reason(errors)}")
                        self.say(self.notes[-1])
                    self.say(f"{part}: {time.monotonic() - begun:.0f} s")
        finally:
            await cluster.destroy()

    def power(self, folder: Path) -> None:
        measured = power.measure(folder, self.trials.power, self.say)
        self.figures += measured.figures
        self.missing |= measured.missing

    async def commands(self) -> None:
        ground, trials = self.ground, self.trials
        await at_rest.documents(ground)
        async with ground.without_nodes(), beside_leader(ground) as beside:
            self.figures += await commands.one_command(ground, beside, trials.commands)
            self.figures.append(await commands.many_commands(ground, beside, trials.rates))
            figure, note = await singles.single_requests(ground, beside, max(2, trials.rates // 2))
            self.figures.append(figure)
            self.notes.append(note)

    async def nodes(self) -> None:
        self.figures.append(await nodes.desired_to_driver(self.ground, self.trials.desired))

    async def failovers(self) -> None:
        trials, failovers = self.trials, Failovers(self.ground)
        await failovers.measure(trials.killed, trials.paused, trials.handed)
        self.figures += failovers.figures()
        self.missing |= failovers.missing()

    async def cold(self) -> None:
        self.figures += await cold_start.cold_start(self.ground, self.trials.cold)

    async def memory(self) -> None:
        self.figures += at_rest.memory(self.ground)

    async def rest(self) -> None:
        self.figures += await at_rest.at_rest(self.ground, self.trials.rest_s)

    async def busy(self) -> None:
        self.figures.append(await at_rest.false_takeovers(self.ground, self.trials.busy_s))

    async def many(self) -> None:
        trials = self.trials.scenes
        hundred = await scenes.watching_nodes(self.ground, 100, 10 * trials)  # as many changes as of the thousand
        thousand = await scenes.watching_nodes(self.ground, 1_000, trials)
        self.figures += scenes.watched(hundred, thousand)


PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "commands": Bench.commands, "memory": Bench.memory, "rest": Bench.rest, "nodes": Bench.nodes,
    "failovers": Bench.failovers, "busy": Bench.busy, "cold": Bench.cold, "many": Bench.many,
}  # fmt: skip
"""In this order: memory after some work, rest before anything is hurt, and the large stores last."""


def run(trials: Trials, only: tuple[str, ...], say: Callable[[str], None]) -> Bench:
    """Measures all parts, or those of `only`."""
    bench = Bench(trials, say)
    parts = [part for part in only or tuple(PARTS) if part != POWER]
    with tempfile.TemporaryDirectory(prefix="nodectl-bench-") as name:
        if parts:
            asyncio.run(bench.on_a_cluster(Path(name), parts))
        if not only or POWER in only:
            bench.power(Path(name))
    return bench
