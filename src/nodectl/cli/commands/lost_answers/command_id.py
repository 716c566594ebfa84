"""`nodectl command-id`: prints an id for a script that may have to repeat its command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nodectl.cli.session import with_client
from nodectl.terminal.output import Output

if TYPE_CHECKING:
    from nodectl.client import Client

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def command_id(context: typer.Context) -> None:
    """Print an id for `nodectl command --command-id`.

    It contains the current index, by which the leader recognises a repeat that is too old to be safe.
    """

    async def work(client: Client) -> str:
        import secrets

        index = int((await client.get("/v1/leader"))["index"])
        return f"cli-{secrets.token_hex(8)}@{index}"

    Output().write_line(with_client(context, work))
