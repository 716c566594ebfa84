"""`nodectl master`: shows the masters, switches over, pauses and resumes takeover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.arguments import WAIT_S, LocalOption, TimeoutOption, consistency
from nodectl.cli.session import wait_until, with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client, Leader
    from nodestore.schema.api_types import LeaderSummary, TermView, UnreadableTerm

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show masters; switch over; pause and resume automatic takeover.",
)


@app.command("list")
def list_masters(context: typer.Context, local: LocalOption = False, output: OutputOption = Format.table) -> None:
    """List the running masters and their roles."""
    from nodectl.terminal.format import masters_table

    async def work(client: Client) -> Any:
        return await client.masters(consistency=consistency(local))

    masters = with_client(context, work)
    Output(output).show(
        masters, tables=lambda: [masters_table(masters)], names=lambda: [master["id"] for master in masters]
    )


@app.command("leader")
def leader(context: typer.Context, local: LocalOption = False, output: OutputOption = Format.table) -> None:
    """Show the leader, since when it leads, and why."""

    async def work(client: Client) -> Leader:
        return await client.leader(consistency=consistency(local))

    found = with_client(context, work)

    def tables() -> list[Table]:
        from nodectl.terminal.format import format_age

        table = Table(("LEADER", "TERM", "HOST", "URL", "SINCE", "WHY"))
        table.add(found.id, str(found.term), found.host, found.url, f"{format_age(found.since)} ago", found.why)
        return [table]

    Output(output).show(leader_data(found), tables=tables, names=lambda: [found.id])


def leader_data(found: Leader) -> LeaderSummary:
    return {
        "id": found.id,
        "url": found.url,
        "urls": list(found.urls),
        "host": found.host,
        "term": {"epoch": found.term.epoch, "revision": found.term.revision},
        "since": found.since,
        "cause": found.cause,
        "why": found.why,
    }


@app.command("switchover")
def switchover(
    context: typer.Context,
    to: Annotated[
        str | None,
        typer.Argument(
            metavar="MASTER",
            help="The standby that shall lead (default: the best ranked).",
            autocompletion=completion.masters,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the new leader answers.")] = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Hand leadership over to a standby.

    Use it before maintenance of the leader's PC. Commands in flight are not lost.
    """
    out = Output(output)

    async def work(client: Client) -> dict[str, Any]:
        before = await client.leader()
        result = dict(await client.switchover(to, timeout_s=timeout))
        out.took_effect()

        async def missing() -> str | None:
            now, wanted = await client.leader(), result.get("to")
            return None if now.term > before.term and wanted in (None, now.id) else f"{now.id} leads"

        if wait:
            await wait_until(missing, f"{result.get('to') or 'another master'} leads", timeout, out)
        return result

    result = with_client(context, work)
    out.show(result, tables=list, names=lambda: [str(result.get("to", ""))])
    if output is Format.table:
        out.note(f"{result.get('from')} handed over to {result.get('to')}")


@app.command("pause")
def pause(
    context: typer.Context,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="The reason, which `nodectl status` shows.")
    ] = "",
    output: OutputOption = Format.table,
) -> None:
    """Pause automatic takeover.

    If the leader dies or stops while it is paused, no master leads until `nodectl master resume`.
    """

    out = Output(output)

    async def work(client: Client) -> Any:
        await client.pause(reason)
        out.took_effect()
        return await client.paused()

    out.show(with_client(context, work) or {}, tables=list)
    if output is Format.table:
        out.note("automatic takeover is paused until `nodectl master resume`")


@app.command("resume")
def resume(context: typer.Context, output: OutputOption = Format.table) -> None:
    """Resume automatic takeover."""

    out = Output(output)

    async def work(client: Client) -> bool:
        was = await client.paused() is not None
        await client.resume()
        out.took_effect()
        return was

    was_paused = with_client(context, work)
    out.show({"was_paused": was_paused}, tables=list)
    if output is Format.table:
        out.note("automatic takeover is resumed" if was_paused else "automatic takeover was not paused")


@app.command("history")
def history(context: typer.Context, local: LocalOption = False, output: OutputOption = Format.table) -> None:
    """List the terms, newest first: leader, time and reason."""
    from nodectl.terminal.format import local_time

    async def work(client: Client) -> list[TermView | UnreadableTerm]:
        return await client.terms(consistency=consistency(local))

    terms = with_client(context, work)

    def tables() -> list[Table]:
        table = Table(("TERM", "MASTER", "HOST", "SINCE", "AFTER", "WHY"))
        for term in terms:
            if "problem" in term:
                table.add(f"?.{term['revision']}", "", "", "", "", Cell(term["problem"], "red"))
                continue
            table.add(
                f"{term['epoch']}.{term['revision']}",
                term["id"],
                term.get("host", ""),
                local_time(term["since"]),
                term.get("taken_from") or "",
                term.get("why", ""),
            )
        return [table]

    Output(output).show(terms, tables=tables, names=lambda: [term["id"] for term in terms if "problem" not in term])
