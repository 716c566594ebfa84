"""`nodectl token`: creates, lists and revokes tokens, and gives roles to certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nodectl.cli.duration_option import duration_option
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import NewToken, RoleName

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Create, list and revoke tokens."
)

_ROLES = ("viewer", "operator", "maintainer", "admin")
_LASTS_S, _LASTS_MAX_S = 90 * 86_400.0, 10 * 365 * 86_400.0


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name by which the history shows its bearer.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help=f"One of {', '.join(_ROLES)}.")],
    lasts: Annotated[
        float,
        duration_option("--lasts", least_s=1.0, most_s=_LASTS_MAX_S, default_s=_LASTS_S, help="How long it is valid."),
    ] = _LASTS_S,
    no_end: Annotated[bool, typer.Option("--no-end", help="It is valid until it is revoked.")] = False,
    command: Annotated[
        list[str] | None,
        typer.Option("--command", metavar="PATTERN", help="Only commands whose name fits, such as 'scene.*'."),
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="GROUP", help="Only changes of nodes of this group.")
    ] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Give the role to the certificate CN=operator:NAME; make no token.")
    ] = False,
    output: OutputOption = Format.table,
) -> None:
    """Create a token and print it. It is shown only once.

    With endpoints of etcd it is written to etcd itself: in that way the first admin gets a token. Who may change
    the configuration, maintainers and admins, can run any program on every node.
    """
    if role not in _ROLES:
        raise Invalid(f"--role: {role!r} is not one of {', '.join(_ROLES)}")

    async def work(client: Client) -> NewToken:
        return await client.token_create(
            name, cast("RoleName", role), lasts_s=None if no_end else lasts, commands=command or (),
            groups=group or (), certificate=certificate,
        )  # fmt: skip

    made, out = with_client(context, work), Output(output)
    out.took_effect()
    if output is not Format.table:
        out.show(made, tables=list, names=lambda: [made["token"] or made["id"]])
        return
    what = f"the certificate operator:{name}" if certificate else f"the token {made['id']}"
    out.note(f"{what} has the role {role} {_until(made['ends'])}")
    if made["token"] is not None:
        out.write_line(made["token"])


@app.command("list")
def list_tokens(context: typer.Context, output: OutputOption = Format.table) -> None:
    """List all tokens, and the roles of certificates.

    LAST USED is some minutes old, and a master that was killed did not write the uses of its last minutes.
    """

    async def work(client: Client) -> Any:
        return await client.tokens()

    found = with_client(context, work)

    def tables() -> list[Table]:
        from nodectl.terminal.format import local_time

        table = Table(
            ("NAME", "KIND", "ROLE", "COMMANDS", "GROUPS", "ENDS", "LAST USED", "FROM", "MADE", "BY", "ID"),
            optional=("BY", "MADE", "FROM", "GROUPS", "COMMANDS"),
        )
        for item in found:
            table.add(
                item["name"], item["kind"], item["role"], ", ".join(item["commands"]) or "all",
                ", ".join(item["groups"]) or "all", "never" if item["ends"] is None else local_time(item["ends"]),
                local_time(last) if (last := item.get("last_used")) else "-", item.get("last_address") or "-",
                local_time(item["time"]), item["actor"], item["id"],
            )  # fmt: skip
        return [table]

    Output(output).show(found, tables=tables, names=lambda: [item["id"] for item in found])


@app.command("revoke")
def revoke(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The ID, as `nodectl token list` shows it.")],
) -> None:
    """Revoke a token or the role of a certificate. Its open connections end at once."""

    async def work(client: Client) -> None:
        await client.token_revoke(token_id)

    with_client(context, work)
    Output().note(f"{token_id} is revoked")


def _until(ends: float | None) -> str:
    from nodectl.terminal.format import local_time

    return "until it is revoked" if ends is None else f"until {local_time(ends)}"
