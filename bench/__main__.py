"""`make bench`: a cluster of its own on this machine, measured, told as a table and as build/bench.json."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import measure
from bench.figures import Figure
from nodectl.dev.cluster import DevCluster
from nodestore.etcd import Etcd, EtcdSettings

OUT = Path("build/bench.json")


@dataclass(frozen=True)
class Trials:
    """How often each is measured."""

    commands: int = 1000
    rates: int = 15
    failovers: int = 30
    desired: int = 500


QUICK = Trials(commands=200, rates=5, failovers=8, desired=100)


async def run(trials: Trials, console: Console) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="nodectl-bench-") as folder:
        cluster = DevCluster(Path(folder) / "cluster", tied=True, say=lambda line: console.print(line, style="dim"))
        try:
            await cluster.up()
            async with cluster.client() as client, Etcd(EtcdSettings(cluster.endpoints)) as etcd:
                console.print("one command at a time ...", style="dim")
                figures.append(await measure.one_command(client, etcd, trials.commands))
                console.print("64 callers ...", style="dim")
                figures.append(await measure.many_commands(client, etcd, trials.rates))
                console.print("desired state to driver ...", style="dim")
                nodes = Path(folder) / "noded"
                figures.append(await measure.desired_to_driver(etcd, cluster.endpoints, nodes, trials.desired))
                console.print("failovers ...", style="dim")
                figures.append(await measure.failover(cluster, client, trials.failovers))
        finally:
            await cluster.destroy()
    return figures


def shown(figures: list[Figure]) -> Table:
    table = Table("what", "n", "median", "p99", "max", "beside", "ratio", title="measured on this machine, just now")
    for item in figures:
        base = f"{item.beside}: {item.baseline:.4g} {item.unit}" if item.baseline is not None else ""
        ratio = f"{item.ratio:.2f}x" if item.ratio is not None else ""
        table.add_row(
            item.name, str(item.n), f"{item.median:.4g} {item.unit}", f"{item.p99:.4g}", f"{item.max:.4g}", base, ratio
        )
    return table


def main() -> int:
    console = Console()
    trials = QUICK if os.environ.get("QUICK") else Trials()
    figures = asyncio.run(run(trials, console))
    console.print(shown(figures))
    load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    machine = f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}{load}"
    console.print(machine, style="dim")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({item.name: item.as_json() for item in figures}, indent=1) + "\n", "utf-8")
    console.print(f"written to {OUT}", style="dim")
    return 0


if __name__ == "__main__":
    sys.exit(main())
