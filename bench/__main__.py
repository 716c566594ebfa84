"""`make bench`: start a cluster on this machine, measure it, and write a table, data, and docs/benchmarks.md.

The environment selects what runs. Without variables: all trials; writes build/bench.json and the page. QUICK=1: fewer
trials, in five minutes; writes build/bench.json, not the page. ONLY=name,name: only these parts (of PARTS, and
`power`); writes only build/bench-partial.json. RECORD=text: keeps the figures in bench/recorded.json too, with this
text, so that later runs are compared with them. The table is always printed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from bench.harness import recorded
from bench.report import page
from bench.suite import PARTS, POWER, QUICK, BenchRun, Trials, run
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS, MEMORY_ENVIRONMENT


def settings(trials: Trials, machine: str) -> list[str]:
    """Return the lines about settings for the page."""
    shipped = ("heartbeat-interval", "election-timeout", "snapshot-count", "max-txn-ops")
    values = ", ".join(f"{name} {DEFAULT_SETTINGS[name]}" for name in shipped)
    memory = " ".join(f"{name}={value}" for name, value in MEMORY_ENVIRONMENT.items())
    return [
        f"machine: {machine}",
        f"etcd: three members with the settings of `etcd/`: {values}; {memory}; fsync on",
        "masterd: three, as shipped; noded: nine, as shipped, unless said otherwise",
        f"trials: {trials}",
    ]


def write(bench: BenchRun, machine: str, *, quick: bool, only: bool) -> list[Path]:
    """Write the results; return the paths.

    A run of some parts does not replace the data of a complete run. The page is written only after a complete run that
    is not quick.
    """
    data = page.PARTIAL if only else page.DATA
    page.write_data(bench.figures, data, bench.curve)
    if quick or only:
        return [data]
    lines = settings(bench.trials, machine)
    page.write_page(bench.figures, lines, bench.notes, bench.missing, bench.curve, recorded.load().cpu_us)
    return [data, page.PAGE]


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 190)
    quick = bool(os.environ.get("QUICK"))
    only = tuple(part for part in os.environ.get("ONLY", "").split(",") if part)
    if unknown := set(only) - {*PARTS, POWER}:
        known = ", ".join([*PARTS, POWER])
        console.print(f"there is no part {', '.join(sorted(unknown))}; there are: {known}", style="red")
        return 2
    machine = page.describe_machine()
    bench = run(QUICK if quick else Trials(), only, lambda line: console.print(line, style="dim", markup=False))
    console.print(machine, style="dim", markup=False)
    console.print(page.table(bench.figures))
    if bench.curve:
        console.print(*page.curve_tables(bench.curve, recorded.load().cpu_us), sep="\n")
    for note in (*bench.notes, *(f"{name}: not measured: {why}" for name, why in bench.missing.items())):
        console.print(note, markup=False)
    written = write(bench, machine, quick=quick, only=bool(only))
    if text := os.environ.get("RECORD"):
        recorded.save(f"{text}; {machine}", bench.figures, bench.curve)
        written.append(recorded.PATH)
    console.print(f"written to {' and '.join(map(str, written))}", style="dim")
    return 0 if bench.figures else 1


if __name__ == "__main__":
    sys.exit(main())
