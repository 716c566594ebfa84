"""`nodectl app`: checks which application each master runs, and adopts another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.session import with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import Application, MasterApplication

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Check which application the masters run; adopt another one.",
)

_NAMES_MAX = 5


@app.command("check")
def check(context: typer.Context, output: OutputOption = Format.table) -> None:
    """Show the application of each master, and which nodes it would change if it led.

    Each standby derives the desired state of all nodes with its own application, without any effect: after its start,
    after each new configuration, and otherwise at most once a minute. Exits with code 1 if a master cannot lead.
    """

    async def work(client: Client) -> Application:
        return await client.application()

    found = with_client(context, work)
    out = Output(output)
    out.show(found, tables=lambda: _tables(found), names=lambda: [master["id"] for master in found["masters"]])
    if output is Format.table:
        out.note(f"the application of this cluster is {found['in_force'] or 'not recorded yet'}")
    if any(master["unfit"] is not None for master in found["masters"]):
        raise typer.Exit(1)


@app.command("adopt")
def adopt(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the application, as `app check` shows it.")],
    output: OutputOption = Format.table,
) -> None:
    """Adopt another application: from then on only masters that run it take over.

    This works without a leader. A leader with the former application goes on until it stops or hands over.
    """

    async def work(client: Client) -> Any:
        return await client.adopt_application(name)

    out = Output(output)
    out.show(with_client(context, work), tables=list)
    if output is Format.table:
        out.note(f"application {name} is adopted; if another application still leads: nodectl master switchover")


def _tables(found: Application) -> list[Table]:
    table = Table(("MASTER", "ROLE", "APPLICATION", "VERSION", "COMMANDS", "WOULD CHANGE", "PROBLEM"))
    for master in found["masters"]:
        table.add(
            master["id"], master["role"], master["application"], master["application_version"],
            master["commands_hash"][:8], _changes(master), Cell(master["unfit"] or "", "red"),
        )  # fmt: skip
    return [table]


def _changes(master: MasterApplication) -> Cell:
    """The nodes that would get another desired state if this master led."""
    report = master["rehearsal"]
    if report is None:
        return Cell("" if master["role"] == "leader" else "not known yet")
    count = report["differing_count"]
    if not count:
        return Cell("nothing", "green")
    from nodectl.terminal.format import some_names

    return Cell(some_names(report["differing"], _NAMES_MAX, count=count), "yellow")
