"""`nodectl host token`: tokens with which PCs join."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, cast

import typer

from nodectl.cli.commands.hosts.changes import on_signer
from nodectl.cli.commands.hosts.options import RootOption
from nodectl.cli.duration_option import duration_option
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table
from nodestore.errors import Invalid, NotFound

if TYPE_CHECKING:
    from nodestore.etcd.session import Etcd
    from nodestore.schema.access_models import JoinKind, JoinToken
    from nodestore.schema.keys import Keys

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Make, list and revoke tokens with which PCs join. On a signer.",
)  # fmt: skip

_KINDS = ("node", "host")
_LASTS_S, _LASTS_MAX_S = 86_400.0, 365 * 86_400.0


@app.command("create")
def create(
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="host: its PCs may become members. node: noded only.")
    ] = "host",
    uses: Annotated[int, typer.Option("--uses", min=1, max=100, help="How many PCs it lets in.")] = 8,
    lasts: Annotated[
        float,
        duration_option("--lasts", least_s=1.0, most_s=_LASTS_MAX_S, default_s=_LASTS_S, help="How long it is valid."),
    ] = _LASTS_S,
    root: RootOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Make a token and print it. It is shown only once; who has it can have a PC join."""
    import getpass

    from hostd.pc.layout import Layout
    from hostd.setup.tokens import NewJoinToken, create_join_token

    if kind not in _KINDS:
        raise Invalid(f"--kind: {kind!r} is neither host nor node")

    async def work(etcd: Etcd, keys: Keys) -> NewJoinToken:
        return await create_join_token(
            Layout.of(root), etcd, keys, actor=getpass.getuser(), kind=cast("JoinKind", kind), uses=uses, lasts_s=lasts
        )

    made, out = on_signer(root, work), Output(output)
    out.took_effect()
    if output is not Format.table:
        document = {"id": made.id, "token": made.text, "kind": made.kind, "uses": made.uses, "ends": made.ends}
        out.show(document, tables=list, names=lambda: [made.text])
        return
    out.note(f"the token {made.id} lets in {made.uses} {'PC' if made.uses == 1 else 'PCs'} of the kind {made.kind}")
    out.write_line(made.text)


@app.command("list")
def list_tokens(root: RootOption = None, output: OutputOption = Format.table) -> None:
    """List the tokens, without their secrets."""
    from nodestore.cluster.join_tokens import JoinTokens

    found = on_signer(root, lambda etcd, keys: JoinTokens(etcd, keys).list())
    Output(output).show(
        [_as_dict(token_id, token) for token_id, token in found.items()],
        tables=lambda: [_table(found)], names=lambda: list(found),
    )  # fmt: skip


@app.command("revoke")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The ID, as `nodectl host token list` shows it.")],
    root: RootOption = None,
) -> None:
    """Revoke a token: it lets in no further PC. Those that joined with it stay."""
    from nodestore.cluster.join_tokens import JoinTokens

    if not on_signer(root, lambda etcd, keys: JoinTokens(etcd, keys).revoke(token_id)):
        raise NotFound(f"there is no token {token_id!r}: nodectl host token list")
    Output().note(f"{token_id} is revoked")


def _as_dict(token_id: str, token: JoinToken) -> dict[str, object]:
    return {
        "id": token_id, "kind": token.kind, "name": token.name, "uses": token.uses, "uses_left": token.uses_left,
        "ends": token.ends, "time": token.time, "actor": token.actor,
    }  # fmt: skip


def _table(found: dict[str, JoinToken]) -> Table:
    from nodectl.terminal.format import local_time

    table = Table(("ID", "KIND", "LEFT", "STATE", "ENDS", "BY"))
    for token_id, token in found.items():
        state = Cell("ended", "red") if token.ends <= time.time() else Cell("used up", "red")
        if token.ends > time.time() and token.uses_left:
            state = Cell("valid", "green")
        table.add(
            token_id, token.kind, f"{token.uses_left} of {token.uses}", state, local_time(token.ends), token.actor
        )
    return table
