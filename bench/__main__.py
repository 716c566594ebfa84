"""`make bench`: a cluster of its own on this machine, measured; told as a table, docs/benchmarks.md, build/bench.json.

QUICK=1 in the environment: fewer trials. ONLY=name,name: only these parts (those of PARTS, and `power`);
the page is left alone then.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench import cold, commands, nodes, power, report, standing
from bench.failovers import Failovers
from bench.figures import Figure
from bench.ground import Ground
from nodectl.dev.cluster import DevCluster
from nodestore.errors import NodectlError
from nodestore.etcd import Etcd, EtcdSettings
from nodestore.etcd_server import MEMORY_ENVIRONMENT, SETTINGS

POWER = "power"
"""The part that has hosts of its own: it comes last, when the cluster of the others is gone."""


@dataclass(frozen=True)
class Trials:
    """How often each is measured, or for how many seconds."""

    commands: int = 1_000
    rates: int = 15
    desired: int = 500
    killed: int = 100
    paused: int = 40
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
                    except (NodectlError, TimeoutError) as error:
                        self.notes.append(f"{part}: not measured: {error}")
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
        await standing.documents(ground)
        async with ground.without_nodes():
            self.figures += await commands.one_command(ground, trials.commands)
            self.figures.append(await commands.many_commands(ground, trials.rates))
            figure, note = await commands.single_requests(ground, max(2, trials.rates // 2))
            self.figures.append(figure)
            self.notes.append(note)

    async def nodes(self) -> None:
        self.figures.append(await nodes.desired_to_driver(self.ground, self.trials.desired))

    async def failovers(self) -> None:
        trials = self.trials
        self.figures += await Failovers(self.ground).measure(trials.killed, trials.paused, trials.handed)

    async def cold(self) -> None:
        self.figures.append(await cold.cold_start(self.ground, self.trials.cold))

    async def memory(self) -> None:
        self.figures += standing.memory(self.ground)

    async def rest(self) -> None:
        self.figures += await standing.at_rest(self.ground, self.trials.rest_s)

    async def busy(self) -> None:
        self.figures.append(await standing.false_takeovers(self.ground, self.trials.busy_s))

    async def many(self) -> None:
        trials = self.trials.scenes
        hundred = await nodes.watching_nodes(self.ground, 100, 10 * trials)  # as many changes as of the thousand
        thousand = await nodes.watching_nodes(self.ground, 1_000, trials)
        self.figures += nodes.watched(hundred, thousand, trials)


PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "commands": Bench.commands, "memory": Bench.memory, "rest": Bench.rest, "nodes": Bench.nodes,
    "failovers": Bench.failovers, "busy": Bench.busy, "cold": Bench.cold, "many": Bench.many,
}  # fmt: skip
"""In this order: memory after some work, rest before anything is hurt, and the large stores last."""


def run(trials: Trials, only: tuple[str, ...], console: Console) -> Bench:
    """Measures."""
    bench = Bench(trials, lambda line: console.print(line, style="dim", markup=False))
    parts = [part for part in only or tuple(PARTS) if part != POWER]
    with tempfile.TemporaryDirectory(prefix="nodectl-bench-") as name:
        if parts:
            asyncio.run(bench.on_a_cluster(Path(name), parts))
        if not only or POWER in only:
            bench.power(Path(name))
    return bench


def settings(trials: Trials) -> list[str]:
    shipped = ("heartbeat-interval", "election-timeout", "snapshot-count", "max-txn-ops")
    told = ", ".join(f"{name} {SETTINGS[name]}" for name in shipped)
    memory = " ".join(f"{name}={value}" for name, value in MEMORY_ENVIRONMENT.items())
    return [
        f"machine: {report.machine()}",
        f"etcd: three members with the settings of `etcd/`: {told}; {memory}; fsync on",
        "masterd: three, as shipped; noded: nine, as shipped, unless said otherwise",
        f"trials: {trials}",
    ]


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 170)
    trials = QUICK if os.environ.get("QUICK") else Trials()
    only = tuple(part for part in os.environ.get("ONLY", "").split(",") if part)
    if unknown := set(only) - {*PARTS, POWER}:
        there = ", ".join([*PARTS, POWER])
        console.print(f"there is no {', '.join(sorted(unknown))}; there are: {there}", style="red")
        return 2
    bench = run(trials, only, console)
    console.print(report.table(bench.figures))
    for note in (*bench.notes, *(f"{name}: not measured: {why}" for name, why in bench.missing.items())):
        console.print(note, markup=False)
    report.write_data(bench.figures)
    if not only:
        report.write_page(bench.figures, settings(trials), bench.notes, bench.missing)
    console.print(f"written to {report.DATA}" + ("" if only else f" and {report.PAGE}"), style="dim")
    return 0 if bench.figures else 1


if __name__ == "__main__":
    sys.exit(main())
