"""`nodectl status`: the cluster on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.arguments import LocalOption
from nodectl.cli.session import options_of, with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table
from nodestore.errors import Unavailable

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.client.etcd_direct.store_status import StoreStatus
    from nodestore.schema.api_types import Overview

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
    limit_s = min(_LEADER_S, options_of(context).request_timeout_s / 2)

    async def work(client: Client) -> tuple[Overview | StoreStatus, Unavailable | None]:
        return await _fetch_status(client, limit_s, local, out)

    view, nobody = with_client(context, work)
    problems = view.get("problems") or []
    out.show(view, tables=lambda: _screen(view, answered=nobody is None), names=lambda: problems)
    if nobody is not None:
        raise Unavailable(f"no masterd answers, so this is only what etcd shows ({nobody})")
    if output is Format.table and not problems:
        out.note("nothing is wrong")
    if check and problems:
        raise typer.Exit(1)


async def _fetch_status(
    client: Client, limit_s: float, local: bool, out: Output
) -> tuple[Overview | StoreStatus, Unavailable | None]:
    """What the leader says, else what another master knows, else what etcd shows, with why no masterd said it."""
    no_leader: Unavailable | None = None
    if not local:
        try:
            return await client.status(timeout_s=limit_s), None
        except Unavailable as error:
            no_leader = error
    try:
        known = await client.status(consistency="local", timeout_s=limit_s if local else limit_s / 2)
    except Unavailable as nobody:
        return await _status_from_etcd(client, nobody), nobody
    if no_leader is not None:
        out.warn(f"no leader answers ({no_leader}); this is what another master knows")
    return known, None


async def _status_from_etcd(client: Client, reason: Unavailable) -> StoreStatus:
    try:
        shown = await client.status_of_store()
    except Unavailable as error:
        raise Unavailable(f"neither a masterd nor etcd answers: {error}") from None
    if shown is None:
        raise Unavailable(f"no masterd answers: {reason}; given the endpoints of etcd, status shows what is there")
    return shown


def _screen(view: Overview | StoreStatus, *, answered: bool) -> list[Table]:
    from nodectl.terminal.format import masters_table, members_table, nodes_table

    tables = [_head(view, answered=answered), members_table(view.get("members") or [], "etcd")]
    tables.append(masters_table(view.get("masters") or [], "masters"))
    if answered:  # etcd alone does not tell how they should be
        tables.append(nodes_table(view.get("nodes") or [], "nodes"))
    if problems := view.get("problems"):
        table = Table(("WHAT IS WRONG",))
        for problem in problems:
            table.add(Cell(problem, "red"))
        tables.append(table)
    return tables


def _head(view: Overview | StoreStatus, *, answered: bool) -> Table:
    from nodectl.terminal.format import format_age

    leader, paused = view.get("leader"), view.get("paused")
    table = Table(("CLUSTER", "LEADER", "TERM", "SINCE", "CONFIGURATION", "TAKEOVER"))
    term = leader.get("term") if leader else None
    name = f"{leader['id']}{'' if answered else ' (silent)'}" if leader else "none" if answered else "none known"
    table.add(
        view.get("cluster", ""),
        Cell(name, "bold green" if leader and answered else "bold red"),
        f"{'?' if term['epoch'] is None else term['epoch']}.{term['revision']}" if term else "",
        f"{format_age(leader['since'])} ago" if leader and leader.get("since") else "",
        _configuration(view),
        Cell(f"paused by {paused.get('actor', '?')}: {paused.get('reason', '')}", "yellow") if paused else "automatic",
    )
    return table


def _configuration(view: Overview | StoreStatus) -> Cell:
    config = view.get("config") or {}
    adopted, current = config.get("adopted"), config.get("current")
    if adopted:
        return Cell(f"version {adopted['version']}")
    return Cell(f"version {current['version']}, not adopted" if current else "none", "yellow")
