"""`nodectl whoami`: shows as whom the masters know this user, and what the user may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def whoami(context: typer.Context, output: OutputOption = Format.table) -> None:
    """Show who you are for the masters, your role and its limits."""

    async def work(client: Client) -> Any:
        return await client.whoami()

    found = with_client(context, work)

    def tables() -> list[Table]:
        from nodectl.terminal.format import local_time

        table = Table(("WHO", "ROLE", "COMMANDS", "GROUPS", "ENDS", "ACCESS CONTROL"))
        table.add(
            found["principal"], found["role"] or "", ", ".join(found["commands"]) or "all",
            ", ".join(found["groups"]) or "all", "" if found["ends"] is None else local_time(found["ends"]),
            "on" if found["access_control"] else "off",
        )  # fmt: skip
        return [table]

    Output(output).show(found, tables=tables, names=lambda: [found["principal"]])
