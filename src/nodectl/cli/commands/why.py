"""`nodectl why`: explains a takeover, and shows how long each step took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.arguments import LocalOption, consistency
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.reports.takeover import Takeover
    from nodestore.schema.api_types import TermView, UnreadableTerm

app = typer.Typer(add_completion=False, rich_markup_mode=None)

JsonOption = Annotated[bool, typer.Option("--json", help="Same as --output json.")]


@app.command(context_settings={"ignore_unknown_options": True})  # -1 is a takeover, not an option
def why(
    context: typer.Context,
    term: Annotated[
        str | None,
        typer.Argument(
            metavar="TERM",
            help="A term, as REVISION or EPOCH.REVISION; or -1, -2, ... for earlier takeovers (default: the newest).",
        ),
    ] = None,
    list_all: Annotated[
        bool, typer.Option("--list", "-l", help="List the takeovers with their causes and times.")
    ] = False,
    json: JsonOption = False,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Explain a takeover: which master replaced which, why, and how long each step took."""
    from nodectl.reports.takeover import find_takeover, takeovers

    if term is not None and term.startswith("-") and not term[1:].isdigit():
        raise Invalid(f"no such option: {term}")
    if term is not None and list_all:
        raise Invalid("give a TERM or --list, not both")
    out = Output(Format.json if json else output)

    async def work(client: Client) -> list[TermView | UnreadableTerm]:
        return await client.terms(consistency=consistency(local))

    terms = with_client(context, work)
    if list_all:
        _list(out, takeovers(terms, time.time()))
        return
    found = find_takeover(terms, term, time.time())
    out.show(found.data(), tables=lambda: tables_of(out, found), names=lambda: [found.term])


def tables_of(out: Output, found: Takeover) -> list[Table]:
    from nodectl.reports.waterfall import canvas, takeover_tables

    return takeover_tables(found, *canvas(out))


def _list(out: Output, found: list[Takeover]) -> None:
    def tables() -> list[Table]:
        from nodectl.reports.waterfall import canvas, list_table

        return [list_table(found, *canvas(out))]

    out.show([item.data() for item in found], tables=tables, names=lambda: [item.term for item in found])
    if out.form is Format.table and not found:
        out.note("there has been no takeover yet")
