"""`nodectl drill`: replaces the leader on purpose, and measures what a client sees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nodectl.cli.arguments import WAIT_S
from nodectl.cli.commands.why import JsonOption, tables_of
from nodectl.cli.confirmation import YesOption, confirm
from nodectl.cli.dev_session import open_cluster, with_lock
from nodectl.cli.duration_option import duration_option
from nodectl.cli.exit_codes import ExitCode
from nodectl.cli.session import with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table
from nodestore.errors import Conflict, Denied
from nodestore.schema.api_types import FREEZE_MAX_S

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.dev.cluster import DevCluster
    from nodectl.drill.report import Report
    from nodectl.drill.run import Preconditions
    from nodectl.drill.strikes import LeaderFault

app = typer.Typer(add_completion=False, rich_markup_mode=None)
T = TypeVar("T")

_FREEZE_S = 3.0
FreezeOption = Annotated[
    float,
    duration_option("--seconds", least_s=0.1, most_s=FREEZE_MAX_S, default_s=_FREEZE_S, help="Length of --how freeze."),
]
TakeoverTimeoutOption = Annotated[
    float,
    duration_option("--timeout", least_s=1.0, most_s=600.0, default_s=WAIT_S, help="Time limit for the takeover."),
]


class How(StrEnum):
    """The fault that the leader suffers."""

    kill = "kill"
    freeze = "freeze"
    handover = "handover"


_VERBS = {How.kill: "Kill", How.freeze: "Freeze", How.handover: "Replace"}


@app.command()
def run_drill(
    context: typer.Context,
    how: Annotated[How, typer.Option("--how", help="The fault to inject into the leader.")] = How.kill,
    seconds: FreezeOption = _FREEZE_S,
    yes: YesOption = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            "-d",
            metavar="DIR",
            help="Directory of a `nodectl dev` cluster, whose leader gets the fault as a signal.",
        ),
    ] = None,
    timeout: TakeoverTimeoutOption = WAIT_S,
    json: JsonOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Kill or freeze the leader, or make it hand over, and measure what a client sees.

    nodectl asks for confirmation first. During the drill it sends commands that change nothing. Exit code 1 if a
    guarantee did not hold.
    """
    out = Output(Format.json if json else output)
    cluster = _cluster(directory)

    def session(work: Callable[[Client], Awaitable[T]]) -> T:
        return with_client(context, work) if cluster is None else _in_dev(cluster, work)

    async def fetch_preconditions(client: Client) -> Preconditions:
        from nodectl.drill.run import check_preconditions

        return await check_preconditions(client)

    confirmed = session(fetch_preconditions)
    _confirm(out, how, confirmed, yes)

    async def work(client: Client) -> Report:
        from nodectl.drill.run import check_preconditions, run_drill

        at = await check_preconditions(client)
        if at.leader.term != confirmed.leader.term:
            raise Conflict(f"{at.leader.id} took over in the meantime: nothing was done")
        return await run_drill(
            client, how.value, _make_fault(client, cluster, how, seconds, timeout), at, timeout, out.note
        )

    try:
        report = session(work)
    except Denied as error:
        out.problem(str(error), "start the leader's masterd with --allow-drills, or use --how handover")
        raise typer.Exit(ExitCode.DENIED) from None
    out.took_effect()
    out.show(report.data(), tables=lambda: _tables(out, report), names=lambda: [report.takeover.term])
    if out.form is Format.table:
        out.note(report.afterwards)
    if not report.held:
        raise typer.Exit(ExitCode.FAILED)


def _cluster(directory: Path | None) -> DevCluster | None:
    return None if directory is None else open_cluster(directory)


def _in_dev(cluster: DevCluster, work: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        async with cluster.client() as client:
            return await work(client)

    return with_lock(cluster, run)


def _make_fault(client: Client, cluster: DevCluster | None, how: How, seconds: float, timeout_s: float) -> LeaderFault:
    from nodectl.drill.strikes import HandoverFault, ProcessFault, RequestedFault

    if how is How.handover:
        return HandoverFault(client, timeout_s)
    if cluster is not None:
        return ProcessFault(cluster, how.value, seconds)
    return RequestedFault(client, "kill" if how is How.kill else "freeze", seconds)


def _confirm(out: Output, how: How, at: Preconditions, yes: bool) -> None:
    for problem in at.problems:
        out.warn(problem)
    if not yes:
        others = f"{', '.join(at.standbys)} stand{'' if len(at.standbys) > 1 else 's'} by"
        confirm(f"{_VERBS[how]} the leader {at.leader.id} now? {others}.")


def _tables(out: Output, report: Report) -> list[Table]:
    from nodectl.reports.waterfall import TotalRow, canvas, waterfall

    columns, signs = canvas(out)
    begin_s = next(step.at_s for step in report.steps if step.phase == "last_answer_before")
    client = waterfall(
        report.steps, TotalRow("gap as seen by the client", report.client_times.gap_s, begin_s), columns, signs
    )
    promises = Table(("PROMISE", "MEASURED", ""))
    for promise in report.promises:
        measured = "; ".join([promise.measured, *promise.faults])
        held = Cell("held", "green") if promise.held else Cell("BROKEN", "bold red")
        promises.add(promise.text, measured, held)
    return [*tables_of(out, report.takeover), client, promises]
