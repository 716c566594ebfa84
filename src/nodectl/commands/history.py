"""`nodectl history`: the journal, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.commands.node import LocalOption
from nodectl.output import Cell, Format, Output, OutputOption, Table
from nodectl.session import with_client

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.client.wire import History

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many commands at most.")] = 20,
    before: Annotated[int | None, typer.Option(min=1, metavar="INDEX", help="Only older than this index.")] = None,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="INDEX", help="Only newer than this index; oldest first.")
    ] = None,
    node: Annotated[str | None, typer.Option(metavar="NODE", help="Only what changed this node.")] = None,
    actor: Annotated[str | None, typer.Option(metavar="ACTOR", help="Only this actor's commands.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C; through changes of leader.")
    ] = False,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Show which command changed what, by whom and when; newest first, with --follow oldest first."""
    if follow:
        _follow(context, after, node, actor, output)
        return

    async def work(client: Client) -> History:
        return await client.history(
            limit=limit,
            before=before,
            after=after,
            node=node,
            actor=actor,
            consistency="local" if local else "linearizable",
        )

    found = with_client(context, work)
    entries = found["entries"]

    def tables() -> list[Table]:
        from nodectl.present import inline, moment

        table = Table(("INDEX", "TIME", "ACTOR", "COMMAND", "ARGUMENTS", "TERM"))
        for entry in entries:
            if entry["index"] is None:
                table.add("?", "", "", "", Cell(str(entry.get("problem", "")), "red"), "")
                continue
            table.add(
                str(entry["index"]),
                moment(entry["time"]),
                entry["actor"],
                entry["name"],
                inline(entry.get("args") or {}),
                f"{entry['epoch']}.{entry['term']}",
            )
        return [table]

    out = Output(output)
    out.show(found, tables=tables, names=lambda: [str(entry["index"]) for entry in entries])
    if output is Format.table and (found["first_retained"] or 1) > 1:
        out.note(f"retained from index {found['first_retained']} on")


def _follow(context: typer.Context, after: int | None, node: str | None, actor: str | None, output: Format) -> None:
    """A line for each command: for people, or a JSON document a line for scripts."""

    async def work(client: Client) -> None:
        import sys

        from nodectl.present import inline, moment
        from nodestore.jsonio import dumps

        async for told in client.journal(after):
            if (actor is not None and told["actor"] != actor) or (
                node is not None and node not in told.get("specs", {})
            ):
                continue
            if output is Format.table:
                line = f"{told['index']:>7}  {moment(told['time'])}  {told['actor']}  {told['name']}  "
                line += inline(told.get("args") or {})
            else:
                line = str(told["index"]) if output is Format.name else dumps(told).decode()
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    with_client(context, work)
