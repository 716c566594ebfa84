"""`nodectl time`: sets the cluster's time after it was wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nodectl.cli.confirmation import YesOption, confirm
from nodectl.cli.sending import send
from nodectl.terminal.output import Format, OutputOption

if TYPE_CHECKING:
    from nodectl.client import Client, CommandResult

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Set the time of the cluster."
)


@app.callback()
def group() -> None:
    """Set the time of the cluster."""


@app.command()
def reset(
    context: typer.Context,
    yes: YesOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Set the cluster's time to the clocks of its PCs: their median, or with fewer than three PCs the leader's clock.

    The deadlines of pending actions are shifted by as much. Needed only if `nodectl status` reports a wrong time.
    """
    if not yes:
        confirm("Set the cluster's time to the clocks of its PCs?")

    async def work(client: Client) -> CommandResult:
        return await client.command("time.reset")

    send(context, output, work, "the cluster's time is set", name="time")
