"""`make bench`: a cluster of its own on this machine, measured; told as a table, as data, and as docs/benchmarks.md.

Alone it writes build/bench.json and the page. QUICK=1 in the environment: fewer trials, in five minutes; the table is
printed and build/bench.json is written, the page is not. ONLY=name,name: only these parts (those of PARTS, and
`power`); the table is printed and build/bench-partial.json is written, nothing else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from bench.report import page
from bench.suite import PARTS, POWER, QUICK, BenchRun, Trials, run
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS, MEMORY_ENVIRONMENT


def settings(trials: Trials, machine: str) -> list[str]:
    shipped = ("heartbeat-interval", "election-timeout", "snapshot-count", "max-txn-ops")
    told = ", ".join(f"{name} {DEFAULT_SETTINGS[name]}" for name in shipped)
    memory = " ".join(f"{name}={value}" for name, value in MEMORY_ENVIRONMENT.items())
    return [
        f"machine: {machine}",
        f"etcd: three members with the settings of `etcd/`: {told}; {memory}; fsync on",
        "masterd: three, as shipped; noded: nine, as shipped, unless said otherwise",
        f"trials: {trials}",
    ]


def write(bench: BenchRun, machine: str, *, quick: bool, only: bool) -> list[Path]:
    """What is written, and where: of some parts only nothing that stands for the whole, and a page of all trials."""
    data = page.PARTIAL if only else page.DATA
    page.write_data(bench.figures, data)
    if quick or only:
        return [data]
    page.write_page(bench.figures, settings(bench.trials, machine), bench.notes, bench.missing)
    return [data, page.PAGE]


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 190)
    quick = bool(os.environ.get("QUICK"))
    only = tuple(part for part in os.environ.get("ONLY", "").split(",") if part)
    if unknown := set(only) - {*PARTS, POWER}:
        there = ", ".join([*PARTS, POWER])
        console.print(f"there is no {', '.join(sorted(unknown))}; there are: {there}", style="red")
        return 2
    machine = page.describe_machine()
    bench = run(QUICK if quick else Trials(), only, lambda line: console.print(line, style="dim", markup=False))
    console.print(machine, style="dim", markup=False)
    console.print(page.table(bench.figures))
    for note in (*bench.notes, *(f"{name}: not measured: {why}" for name, why in bench.missing.items())):
        console.print(note, markup=False)
    written = write(bench, machine, quick=quick, only=bool(only))
    console.print(f"written to {' and '.join(map(str, written))}", style="dim")
    return 0 if bench.figures else 1


if __name__ == "__main__":
    sys.exit(main())
