"""`nodectl status`: the cluster on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.commands.node import LocalOption
from nodectl.output import Cell, Format, Output, OutputOption, Table
from nodectl.session import with_client
from nodestore.errors import Unavailable

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.client.wire import StatusView

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_LEADER_S = 3.0


@app.command()
def status(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="End with exit code 1 if anything is wrong.")] = False,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Show members, masters, nodes, and what is wrong with them."""
    out = Output(output)

    async def work(client: Client) -> StatusView:
        if not local:
            try:
                return await client.status(timeout_s=_LEADER_S)
            except Unavailable as error:
                out.warn(f"no leader answers ({error}); this is what another master knows")
        return await client.status(consistency="local", timeout_s=_LEADER_S)

    view = with_client(context, work)
    problems = view.get("problems") or []
    out.show(view, tables=lambda: _screen(view), names=lambda: problems)
    if output is Format.table and not problems:
        out.note("nothing is wrong")
    if check and problems:
        raise typer.Exit(1)


def _screen(view: StatusView) -> list[Table]:
    from nodectl.present import masters_table, members_table, nodes_table

    tables = [_head(view), members_table(view.get("members") or [], "etcd")]
    tables.append(masters_table(view.get("masters") or [], "masters"))
    tables.append(nodes_table(view.get("nodes") or [], "nodes"))
    if problems := view.get("problems"):
        table = Table(("WHAT IS WRONG",))
        for problem in problems:
            table.add(Cell(problem, "red"))
        tables.append(table)
    return tables


def _head(view: StatusView) -> Table:
    from nodectl.present import ago

    leader, paused, config = view.get("leader"), view.get("paused"), view.get("config") or {}
    adopted = config.get("adopted")
    table = Table(("CLUSTER", "LEADER", "TERM", "SINCE", "CONFIGURATION", "TAKEOVER"))
    term = leader.get("term") if leader else None
    table.add(
        view.get("cluster", ""),
        Cell(leader["id"], "bold green") if leader else Cell("none", "bold red"),
        f"{term['epoch']}.{term['revision']}" if term else "",
        f"{ago(leader['since'])} ago" if leader and leader.get("since") else "",
        f"version {adopted['version']}" if adopted else Cell("none", "yellow"),
        Cell(f"paused by {paused.get('actor', '?')}: {paused.get('reason', '')}", "yellow") if paused else "automatic",
    )
    return table
