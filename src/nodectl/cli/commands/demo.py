"""`nodectl demo`: runs a cluster on this PC, injects faults, and checks its guarantees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nodectl.terminal.output import Format, Output, OutputOption

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    stay: Annotated[bool, typer.Option("--stay", help="Leave the cluster running at the end.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", "-d", metavar="DIR", help="An empty directory for its files (default: a temporary one)."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Make the same random choices as an earlier run with this seed."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without TLS, which is on by default, with authorities of its own.")
    ] = False,
    acts: Annotated[str | None, typer.Option("--acts", hidden=True)] = None,
    output: OutputOption = Format.table,
) -> None:
    """Run a cluster on this PC, inject faults, and check its guarantees.

    Exit code 1 if a guarantee did not hold.
    """
    from nodectl.demo.interrupts import Ended
    from nodectl.demo.play import ACTS, DemoOptions, run

    chosen = acts.split(",") if acts else [act.key for act in ACTS]
    out = Output(output)
    story = sys.stdout if output is Format.table else sys.stderr  # then stdout carries the data
    try:
        outcome = run(DemoOptions(stay=stay, directory=directory, seed=seed, acts=chosen, insecure=insecure), story)
    except Ended as ended:
        out.note(
            f"interrupted by {ended}; everything was stopped and removed" if not stay else f"interrupted by {ended}"
        )
        raise typer.Exit(ended.code) from None
    if output is not Format.table:
        out.show(outcome.described(), tables=list, names=lambda: [item.text for item in outcome.promises if item.held])
    if not outcome.held:
        raise typer.Exit(1)
