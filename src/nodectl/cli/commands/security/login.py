"""`nodectl login`: keeps a token in a file that only its user can read."""

from __future__ import annotations

import asyncio
import getpass
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.session import client_of, options_of
from nodectl.terminal.output import Output
from nodestore.errors import Invalid, NotFound
from nodestore.support.password_file import parse_password, read_password

if TYPE_CHECKING:
    from nodectl.cli.settings import ClusterSettings
    from nodestore.schema.api_types import WhoAmI

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_TOKEN_BYTES_MAX = 4_096


@app.command()
def login(
    context: typer.Context,
    forget: Annotated[bool, typer.Option("--forget", help="Delete the stored token of this cluster.")] = False,
) -> None:
    """Store a token for this cluster, after the masters have accepted it.

    The token is typed, or read from stdin or --token-file. It is never an argument, which other users could see.
    """
    options, out = options_of(context), Output()
    path = options.login_file()
    if forget:
        if not path.exists():
            raise NotFound("no token is stored for this cluster")
        path.unlink()
        out.note("the token of this cluster is forgotten")
        return
    given = options.given.token_file
    token = read_password(given) if given is not None else _read_token()
    found = asyncio.run(_check(options.resolve(), token, options.request_timeout_s))
    from nodestore.pki.private_files import make_private_directory, write_private

    make_private_directory(path.parent)
    write_private(path, f"{token}\n".encode())
    out.note(f"logged in as {found['principal']}, role {found['role']}; the token is in {path}")


def _read_token() -> str:
    if sys.stdin.isatty():
        return parse_password(getpass.getpass("Token: ").encode())
    return parse_password(sys.stdin.buffer.read(_TOKEN_BYTES_MAX))


async def _check(settings: ClusterSettings, token: str, timeout_s: float) -> WhoAmI:
    """Who the bearer of the token is. Raises Unauthenticated, or Invalid if the token was not sent."""
    async with client_of(replace(settings, token_file=None), timeout_s, token=token) as client:
        found = await client.whoami()
    if not found["principal"].startswith("token:"):
        raise Invalid("the token was not sent: masters are reached by http://, where others could read it")
    return found
