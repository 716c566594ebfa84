"""`make bench`: a cluster of its own on this machine, measured; told as a table, docs/benchmarks.md, build/bench.json.

QUICK=1 in the environment: fewer trials. ONLY=name,name: only these parts (see PARTS); the page is left alone then.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench import cold, commands, nodes, report, standing
from bench.failovers import Failovers
from bench.figures import Figure
from bench.ground import Ground
from nodectl.dev.cluster import DevCluster
from nodestore.errors import NodectlError
from nodestore.etcd import Etcd, EtcdSettings
from nodestore.etcd_server import MEMORY_ENVIRONMENT, SETTINGS

POWER_OFF = "failover: a PC loses its power (tests/faults/hosts)"


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


QUICK = Trials(
    commands=200, rates=4, desired=100, killed=6, paused=4, handed=15, cold=3, scenes=3, busy_s=60.0, rest_s=30.0
)


@dataclass
class Bench:
    """One run: what is to be measured, and what was."""

    ground: Ground
    trials: Trials
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def commands(self) -> None:
        ground, trials = self.ground, self.trials
        await standing.documents(ground)
        async with ground.without_nodes():
            self.figures.append(await commands.one_command(ground.client, ground.etcd, trials.commands))
            self.figures.append(await commands.many_commands(ground.client, ground.etcd, trials.rates))
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
        hundred = await nodes.watching_nodes(self.ground, 100, trials)
        thousand = await nodes.watching_nodes(self.ground, 1_000, trials)
        self.figures += nodes.watched(hundred, thousand, trials)


PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "commands": Bench.commands, "memory": Bench.memory, "rest": Bench.rest, "nodes": Bench.nodes,
    "failovers": Bench.failovers, "busy": Bench.busy, "cold": Bench.cold, "many": Bench.many,
}  # fmt: skip
"""In this order: memory after some work, rest before anything is hurt, and the large stores last."""


async def run(trials: Trials, only: tuple[str, ...], console: Console) -> Bench:
    """Measures. A part that fails is told and left out; the others go on."""

    def say(line: str) -> None:
        console.print(line, style="dim", markup=False)

    with tempfile.TemporaryDirectory(prefix="nodectl-bench-") as name:
        folder = Path(name)
        cluster = DevCluster(folder / "cluster", tied=True, say=say)
        try:
            await cluster.up()
            async with cluster.client() as client, Etcd(EtcdSettings(cluster.endpoints)) as etcd:
                bench = Bench(Ground(cluster, client, etcd, folder, say), trials)
                for part in only or tuple(PARTS):
                    begun = time.monotonic()
                    try:
                        await PARTS[part](bench)
                    except (NodectlError, TimeoutError) as error:
                        bench.notes.append(f"{part}: not measured: {error}")
                        say(bench.notes[-1])
                    say(f"{part}: {time.monotonic() - begun:.0f} s")
        finally:
            await cluster.destroy()
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
    if unknown := set(only) - set(PARTS):
        console.print(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}", style="red")
        return 2
    bench = asyncio.run(run(trials, only, console))
    console.print(report.table(bench.figures))
    for note in bench.notes:
        console.print(note, markup=False)
    report.write_data(bench.figures)
    if not only:
        report.write_page(bench.figures, settings(trials), bench.notes, [POWER_OFF])
    console.print(f"written to {report.DATA}" + ("" if only else f" and {report.PAGE}"), style="dim")
    return 0 if bench.figures else 1


if __name__ == "__main__":
    sys.exit(main())
