"""`nodectl node logs`: shows the log of the program that a node runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.arguments import NodeArgument
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, escape_lines
from nodestore.schema.log_requests import LOG_LINES, LOG_LINES_MAX

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import NodeLog


def logs(
    context: typer.Context,
    node: NodeArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow new lines until Ctrl-C, also through changes of leader.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=LOG_LINES_MAX, help="How many last lines to show first.")
    ] = LOG_LINES,
    output: OutputOption = Format.table,
) -> None:
    """Show the log of the program that a node runs.

    Control characters are shown as escapes. -o json prints one JSON object for each piece of the log, with its text
    as it is.
    """
    out = Output(output)

    async def work(client: Client) -> None:
        async for piece in client.node_logs(node, lines=lines, follow=follow):
            _show(out, piece)

    with_client(context, work)


def _show(out: Output, piece: NodeLog) -> None:
    from nodestore.support.jsonio import dumps

    if out.form is not Format.table:
        out.write_line(dumps(dict(piece)).decode())
        return
    if piece["note"]:
        out.note(f"({piece['node']}: {piece['note']})")
    out.write_at_once(escape_lines(piece["text"]))
