"""`nodectl history`: the journal, as people read it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.arguments import LocalOption
from nodectl.cli.session import with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import History

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="How many commands at most.")] = 20,
    before: Annotated[int | None, typer.Option(min=1, metavar="INDEX", help="Only older than this index.")] = None,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="INDEX", help="Only newer than this index; oldest first.")
    ] = None,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Only what changed this node, and its actions.")
    ] = None,
    actor: Annotated[str | None, typer.Option(metavar="ACTOR", help="Only this actor's commands.")] = None,
    command: Annotated[
        str | None, typer.Option("--command", metavar="NAME", help="Only commands of this name, such as node.set.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C; through changes of leader.")
    ] = False,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Show which command changed what, by whom and when; newest first, with --follow oldest first."""
    if follow:
        _follow(context, after, _Filter(node, actor, command), output)
        return

    async def work(client: Client) -> History:
        return await client.history(
            limit=limit,
            before=before,
            after=after,
            node=node,
            actor=actor,
            command=command,
            consistency="local" if local else "linearizable",
        )

    found = with_client(context, work)
    entries = found["entries"]

    def tables() -> list[Table]:
        from nodectl.terminal.format import inline, local_time

        table = Table(("INDEX", "TIME", "ACTOR", "COMMAND", "ARGUMENTS", "CONFIG", "TERM"))
        for entry in entries:
            if "problem" in entry:
                table.add("?", "", "", "", Cell(entry["problem"], "red"), "", "")
                continue
            table.add(
                str(entry["index"]),
                local_time(entry["time"]),
                entry["actor"],
                entry["name"],
                inline(entry.get("args") or {}),
                _config(entry),
                f"{entry['epoch']}.{entry['term']}",
            )
        return [table]

    out = Output(output)
    out.show(found, tables=tables, names=lambda: [str(entry["index"]) for entry in entries])
    if output is Format.table:
        _note_bounds(out, found, after is not None, full=len(entries) >= limit)


def _note_bounds(out: Output, found: History, onward: bool, *, full: bool) -> None:
    """What a reader must know of what is not shown."""
    searched, retained = found.get("searched") if not full else None, found["first_retained"] or 1
    if onward and searched is not None and searched < found["index"]:
        out.note(f"looked at up to index {searched}: go on with --after {searched}")
    elif not onward and searched is not None and searched > retained:
        out.note(f"looked at back to index {searched}: go on with --before {searched}")
    elif retained > 1:
        out.note(f"retained from index {retained} on")


def _config(entry: Mapping[str, Any]) -> str:
    """The version of the configuration that was in force."""
    version = entry.get("config_version")
    return f"v{version}" if version else ""


@dataclass(frozen=True)
class _Filter:
    """Which commands are followed; None: any."""

    node: str | None
    actor: str | None
    command: str | None

    def matches(self, command: Mapping[str, Any]) -> bool:
        from nodestore.schema.models import affects_node

        return (
            (self.actor is None or command["actor"] == self.actor)
            and (self.command is None or command["name"] == self.command)
            and (self.node is None or affects_node(command, self.node))
        )


def _follow(context: typer.Context, after: int | None, wanted: _Filter, output: Format) -> None:
    """A line for each command: for people, or a JSON document a line for scripts."""

    async def work(client: Client) -> None:
        async for told in client.journal(after):
            if wanted.matches(told):
                sys.stdout.write(_line(told, output) + "\n")
                sys.stdout.flush()

    with_client(context, work)


def _line(command: Mapping[str, Any], output: Format) -> str:
    from nodectl.terminal.format import inline, local_time
    from nodestore.support.jsonio import dumps

    if output is Format.name:
        return str(command["index"])
    if output is not Format.table:
        return dumps(dict(command)).decode()
    fields = (
        f"{command['index']:>7}",
        local_time(command["time"]),
        command["actor"],
        command["name"],
        _config(command),
    )
    return "  ".join((*(field for field in fields if field), inline(command.get("args") or {})))
