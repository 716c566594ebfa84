"""`nodectl command`: sends any command of the application. A repeat with the same id is not run again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.sending import as_dict
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, as_json
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_ID = re.compile(r"(?P<id>[A-Za-z0-9._-]+)@(?P<after>\d+)")


@app.command()
def command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the command, such as node.set.")],
    args: Annotated[str, typer.Argument(metavar="JSON", help="Arguments of the command, a JSON object.")] = "{}",
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
    """Send a command to the application and print its result."""
    from nodestore.errors import Garbage
    from nodestore.support.jsonio import loads

    try:
        arguments = loads(args, "the arguments")
    except Garbage as error:
        raise Invalid(str(error)) from None
    if not isinstance(arguments, dict):
        raise Invalid(f'the arguments must be a JSON object such as \'{{"node": "n1"}}\', not {args}')
    known, after = _parse(command_id)

    async def work(client: Client) -> Any:
        return as_dict(await client.command(name, arguments, id=known, after=after))

    out = Output(output)
    done = with_client(context, work)
    if output is Format.table:
        out.write(as_json(done["result"]))
        out.note(
            f"index {done['index']}"
            + (": a repeat, not run again; this is the first result" if done["repeated"] else "")
        )
        return
    out.show(done, tables=list, names=lambda: [str(done["index"])])


def _parse(text: str | None) -> tuple[str | None, int | None]:
    """Split an id printed by `nodectl command-id` into the id and its `after` index."""
    if text is None:
        return None, None
    match = _ID.fullmatch(text)
    if match is None:
        raise Invalid(f"--command-id: {text!r} is not an id from `nodectl command-id` (ID@INDEX)")
    return match["id"], int(match["after"])
