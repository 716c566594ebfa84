"""`nodectl audit`: shows the audit logs of all masters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.session import with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, metavar="N", help="How many entries.")] = 100,
    output: OutputOption = Format.table,
) -> None:
    """Show what masters refused, who logged in, and who changed access control, oldest first.

    Each master records what it decided itself. Commands and configurations are in `nodectl history`.

    Kept: the newest 2 to 4 MB of refusals and logins, and as much of changes, in the --state-dir of each master.
    Without that directory: the newest 1,000 of each, until masterd ends. To keep more: masterd --audit-export.
    """

    async def work(client: Client) -> Any:
        return await client.audit(limit=limit)

    found = [{"master": master, **entry} for master, entry in with_client(context, work)]

    def tables() -> list[Table]:
        from nodectl.terminal.format import local_time

        table = Table(("TIME", "MASTER", "EVENT", "WHO", "ADDRESS", "REQUEST", "DETAIL", "COUNT"))
        for entry in found:
            event = entry["event"]
            shown = Cell(event, "red") if event in ("refused", "unreachable") else event
            table.add(
                local_time(entry["time"]), entry["master"], shown, entry["principal"], entry["address"],
                entry["request"], entry["detail"], str(entry["count"]),
            )  # fmt: skip
        return [table]

    Output(output).show(found, tables=tables, names=lambda: [entry["event"] for entry in found])
