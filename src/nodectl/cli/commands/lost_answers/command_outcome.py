"""`nodectl command-outcome`: what became of a command whose answer was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.exit_codes import ExitCode
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, as_json
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import SettledOutcome

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def command_outcome(
    context: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="ID@INDEX",
            help="The command, as the message about its unknown outcome or `nodectl command-id` names it.",
        ),
    ],
    output: OutputOption = Format.table,
) -> None:
    """Show what became of a command whose answer was lost; if it has not taken effect, it never will.

    The command is not sent. If it has not taken effect, its id is closed: a copy that arrives later is refused.

    Exit codes: 0 it took effect, 3 it has not and never will, 8 it cannot be known any more.
    """
    command_id, after = _parsed(reference)

    async def work(client: Client) -> SettledOutcome:
        return await client.outcome_of(command_id, after)

    found, out = with_client(context, work), Output(output)
    if output is Format.table:
        if found["result_kept"]:
            out.write(as_json(found["result"]))
        out.note(_sentence(found))
    else:
        out.show(found, tables=list, names=lambda: [str(found["index"])] if found["took_effect"] else [])
    if not found["took_effect"]:
        raise typer.Exit(ExitCode.NOT_FOUND)


def _sentence(found: SettledOutcome) -> str:
    if not found["took_effect"]:
        return f"it has not taken effect, and never will: its id was closed at index {found['index']}"
    result = "" if found["result_kept"] else "; its result is no longer kept"
    return f"it took effect at index {found['index']}{result}"


def _parsed(reference: str) -> tuple[str, int]:
    """The id and its `after`. An id may contain @ itself."""
    command_id, _, after = reference.rpartition("@")
    if not command_id or not after.isascii() or not after.isdecimal():
        raise Invalid(f"{reference!r} does not name a command: give its id and the index after @, as in cli-1f@120")
    return command_id, int(after)
