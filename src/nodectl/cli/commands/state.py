"""`nodectl state`: reads the documents of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.arguments import LocalOption, consistency
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Read the documents of the application."
)


@app.command("list")
def list_documents(
    context: typer.Context,
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX", help="Only paths that begin with PREFIX.", autocompletion=completion.documents
        ),
    ] = "",
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """List the documents: path, index of the last change, and content."""

    async def work(client: Client) -> Any:
        return await client.documents(prefix, consistency=consistency(local))

    found = with_client(context, work, mask_secrets=output is Format.table)

    def tables() -> list[Table]:
        from nodectl.terminal.format import inline

        table = Table(("PATH", "INDEX", "DOCUMENT"))
        for path, view in sorted(found.items()):
            table.add(path, str(view["index"]), inline(view["document"]))
        return [table]

    Output(output).show(found, tables=tables, names=lambda: sorted(found))


@app.command("get")
def get_document(
    context: typer.Context,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Path of the document.", autocompletion=completion.documents)
    ],
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Show one document. The table masks secrets, as `node show` does; `-o json` and `-o yaml` hold them."""

    async def work(client: Client) -> Any:
        return await client.document(path, consistency=consistency(local))

    document = with_client(context, work, mask_secrets=output is Format.table)["document"]

    def tables() -> list[Table]:
        from nodectl.terminal.format import inline
        from nodestore.support.secrets import masked

        table = Table(("KEY", "VALUE"))
        for key, value in masked(document).items():
            table.add(key, value if isinstance(value, str) else inline(value, 200))
        return [table]

    Output(output).show(document, tables=tables, names=lambda: [path])
