"""`nodectl status`: shows the cluster and its problems on one screen."""

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
_NODES_SHOWN_MAX = 50
_PROBLEMS_SHOWN_MAX = 30


@app.command()
def status(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 if there is a problem.")] = False,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Show the etcd members, the masters, the nodes, and all problems.

    Of more than 50 nodes it shows how many are in each state; `nodectl node list` lists them.

    If no leader answers, it shows what another master knows. If no master answers, it shows what etcd holds. Without a
    leader it exits with code 5.
    """
    out = Output(output)
    limit_s = min(_LEADER_S, options_of(context).request_timeout_s / 2)

    async def work(client: Client) -> tuple[Overview | StoreStatus, Unavailable | None]:
        return await _fetch_status(client, limit_s, local, out)

    view, unanswered = with_client(context, work)
    problems = view.get("problems") or []
    out.show(view, tables=lambda: _screen(view, answered=unanswered is None), names=lambda: problems)
    if unanswered is not None:
        raise Unavailable(f"no masterd answers, so this status is from etcd alone ({unanswered})")
    if view.get("leader") is None:
        raise Unavailable("there is no leader: no command can be run")
    if output is Format.table and not problems:
        out.note("no problems")
    if check and problems:
        raise typer.Exit(1)


async def _fetch_status(
    client: Client, limit_s: float, local: bool, out: Output
) -> tuple[Overview | StoreStatus, Unavailable | None]:
    """Fetch the status from the leader, else from another master, else from etcd together with the masters' error."""
    no_leader: Unavailable | None = None
    if not local:
        try:
            return await client.status(timeout_s=limit_s), None
        except Unavailable as error:
            no_leader = error
    try:
        known = await client.status(consistency="local", timeout_s=limit_s if local else limit_s / 2)
    except Unavailable as error:
        return await _status_from_etcd(client, error), error
    if no_leader is not None:
        out.warn(f"no leader answers ({no_leader}); this status is from another master")
    return known, None


async def _status_from_etcd(client: Client, reason: Unavailable) -> StoreStatus:
    try:
        found = await client.status_of_store()
    except Unavailable as error:
        raise Unavailable(f"neither a masterd nor etcd answers: {error}") from None
    if found is None:
        raise Unavailable(f"no masterd answers: {reason}; with --endpoints of etcd, status shows what etcd holds")
    return found


def _screen(view: Overview | StoreStatus, *, answered: bool) -> list[Table]:
    from nodectl.terminal.format import masters_table, members_table, nodes_summary, nodes_table

    tables = [_head(view, answered=answered), members_table(view.get("members") or [], "etcd", errors=False)]
    tables.append(masters_table(view.get("masters") or [], "masters"))
    if answered:  # only masters compute the desired state of nodes
        nodes = view.get("nodes") or []
        many = len(nodes) > _NODES_SHOWN_MAX
        if not nodes and _has_no_configuration(view):
            return [*tables, *_problem_tables(view), _first_configuration()]
        tables.append(nodes_summary(nodes, "nodes") if many else nodes_table(nodes, "nodes", problems=False))
    return tables + _problem_tables(view)


def _has_no_configuration(view: Overview | StoreStatus) -> bool:
    config = view.get("config") or {}
    return not any(config.get(name) for name in ("adopted", "current", "problem"))


def _first_configuration() -> Table:
    table = Table(("NEXT",))
    table.add("no configuration yet: describe the nodes in a file, and `nodectl config apply FILE` (docs/cli.md)")
    return table


def _problem_tables(view: Overview | StoreStatus) -> list[Table]:
    from nodectl.terminal.format import grouped_problems

    problems = grouped_problems(view.get("problems") or [])
    return [_problems(problems)] if problems else []


def _problems(problems: list[str]) -> Table:
    """One row for each problem, up to a limit. The other tables do not repeat them."""
    table = Table(("PROBLEM",))
    for problem in problems[:_PROBLEMS_SHOWN_MAX]:
        table.add(Cell(problem, "red"))
    if len(problems) > _PROBLEMS_SHOWN_MAX:
        table.add(f"and {len(problems) - _PROBLEMS_SHOWN_MAX} more: `nodectl status -o name` lists all")
    return table


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
    if current:
        return Cell(f"version {current['version']}, not adopted", "yellow")
    return Cell("unknown" if config.get("problem") else "none", "yellow")
