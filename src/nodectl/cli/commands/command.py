"""`nodectl command`: sends any command of the application. A repeat with the same id is not run again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.arguments import parse_json_object
from nodectl.cli.sending import as_dict
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table, as_json
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import CommandInfo

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_ID = re.compile(r"(?P<id>[A-Za-z0-9._-]+)@(?P<after>\d+)")


@app.command()
def command(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Name of the command, such as node.set.", autocompletion=completion.commands
        ),
    ] = None,
    args: Annotated[
        str,
        typer.Argument(
            metavar="JSON",
            help="Arguments of the command, a JSON object; @FILE reads it from FILE, - from stdin.",
        ),
    ] = "{}",
    list_all: Annotated[
        bool, typer.Option("--list", "-l", help="List the commands of the application with their arguments.")
    ] = False,
    command_id: Annotated[
        str | None,
        typer.Option(
            "--command-id",
            metavar="ID",
            help="An id from `nodectl command-id`. A repeat with the same id is not run; it gets the first result.",
        ),
    ] = None,
    output: OutputOption = Format.table,
) -> None:
    """Send a command to the application and print its result.

    --list shows the commands that the application has.
    """
    if list_all:
        _list(context, output)
        return
    if name is None:
        raise Invalid("give the NAME of a command, or --list")
    arguments = parse_json_object(args, "the arguments")
    known, after = _parse(command_id)

    async def work(client: Client) -> Any:
        return as_dict(await client.command(name, arguments, id=known, after=after))

    out = Output(output)
    done = with_client(context, work)
    out.took_effect()
    if output is Format.table:
        out.write(as_json(done["result"]))
        out.note(
            f"index {done['index']}"
            + (": a repeat, not run again; this is the first result" if done["repeated"] else "")
        )
        return
    out.show(done, tables=list, names=lambda: [str(done["index"])])


def _list(context: typer.Context, output: Format) -> None:
    """Show the commands; arguments in brackets may be omitted."""

    async def work(client: Client) -> list[CommandInfo]:
        return await client.commands()

    found = with_client(context, work)

    def tables() -> list[Table]:
        from nodectl.terminal.schemas import describe_arguments

        table = Table(("COMMAND", "ARGUMENTS", "DESCRIPTION"))
        for item in found:
            table.add(item["name"], describe_arguments(item["arguments"]), item["help"])
        return [table]

    Output(output).show(found, tables=tables, names=lambda: [item["name"] for item in found])


def _parse(text: str | None) -> tuple[str | None, int | None]:
    """Split an id printed by `nodectl command-id` into the id and its `after` index."""
    if text is None:
        return None, None
    match = _ID.fullmatch(text)
    if match is None:
        raise Invalid(f"--command-id: {text!r} is not an id from `nodectl command-id` (ID@INDEX)")
    return match["id"], int(match["after"])
