"""`make bench`: start a cluster on this machine, measure it, and write a table, data, and docs/benchmarks.md.

The environment selects what runs. Without variables: all trials; writes build/bench.json and the page. QUICK=1: fewer
trials, in five minutes; writes build/bench.json, not the page. ONLY=name,name: only these parts (of PARTS, and
`power`); writes only build/bench-partial.json. RECORD=text: keeps the figures in bench/recorded.json too, with this
text, so that later runs are compared with them. The table is always printed. Some parts are measured again in a cluster
with TLS, and SIGINT or SIGTERM ends all processes of the bench.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.harness import recorded
from bench.report import page
from bench.report.curve import Curves
from bench.suite import PARTS, POWER, QUICK, BenchRun, Trials, run
from nodectl.demo.interrupts import Ended
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


def curves(bench: BenchRun) -> Curves:
    with_tls = bench.with_tls.curve if bench.with_tls is not None else []
    return Curves(bench.curve, bench.driven, with_tls, bench.recorded.cpu_us)


def write(bench: BenchRun, machine: str, *, quick: bool, only: bool) -> list[Path]:
    """Write the results; return the paths.

    A run of some parts does not replace the data of a complete run. The page is written only after a complete run that
    is not quick.
    """
    data = page.PARTIAL if only else page.DATA
    with_tls = bench.with_tls.figures if bench.with_tls is not None else []
    page.write_data(bench.figures, data, curves(bench), with_tls)
    if quick or only:
        return [data]
    lines = settings(bench.trials, machine)
    page.write_page(bench.figures, lines, bench.notes, bench.missing, curves(bench), with_tls)
    return [data, page.PAGE]


def show(bench: BenchRun, console: Console) -> None:
    """Print the tables, the notes, and what was not measured."""
    console.print(page.table(bench.figures))
    if bench.with_tls is not None:
        console.print(page.tls_table(bench.with_tls.figures, bench.figures))
    console.print(*page.curve_tables(curves(bench)), sep="\n")
    notes = [*bench.notes, *(f"{name}: not measured: {why}" for name, why in bench.missing.items())]
    if bench.with_tls is not None:
        notes += [f"with TLS: {note}" for note in bench.with_tls.notes]
    for note in notes:
        console.print(note, markup=False)


def parse_arguments(argv: Sequence[str]) -> None:
    """Print the help and exit if it is asked for. Exits with code 2 after any other argument."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"parts: {', '.join([*PARTS, POWER])}", allow_abbrev=False,
    )  # fmt: skip
    parser.parse_args(argv)


def main(argv: Sequence[str] = ()) -> int:
    parse_arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 190)
    quick = bool(os.environ.get("QUICK"))
    only = tuple(part for part in os.environ.get("ONLY", "").split(",") if part)
    if unknown := set(only) - {*PARTS, POWER}:
        known = ", ".join([*PARTS, POWER])
        sys.stderr.write(f"ONLY: there is no part {', '.join(sorted(unknown))}; there are: {known}\n")
        return 2
    machine = page.describe_machine()
    try:
        bench = run(QUICK if quick else Trials(), only, lambda line: console.print(line, style="dim", markup=False))
    except Ended as end:
        console.print(f"ended by {end}: all processes are stopped, and nothing is written", style="red")
        return end.code
    console.print(machine, style="dim", markup=False)
    show(bench, console)
    written = write(bench, machine, quick=quick, only=bool(only))
    if text := os.environ.get("RECORD"):
        recorded.save(f"{text}; {machine}", bench.figures, bench.curve)
        written.append(recorded.PATH)
    console.print(f"written to {' and '.join(map(str, written))}", style="dim")
    return 0 if bench.figures else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
