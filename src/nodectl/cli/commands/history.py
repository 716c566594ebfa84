"""`nodectl history`: shows the commands in the journal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.arguments import LocalOption, consistency
from nodectl.cli.session import with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import History

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="Maximum number of commands.")] = 20,
    before: Annotated[int | None, typer.Option(min=1, metavar="INDEX", help="Only commands before this index.")] = None,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="INDEX", help="Only commands after this index, oldest first.")
    ] = None,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Only commands that changed this node or concern its actions.")
    ] = None,
    actor: Annotated[str | None, typer.Option(metavar="ACTOR", help="Only commands of this actor.")] = None,
    command: Annotated[
        str | None, typer.Option("--command", metavar="NAME", help="Only commands of this name, such as node.set.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow new commands until Ctrl-C, also through changes of leader.")
    ] = False,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Show the commands that were run: which, by whom and when.

    The newest comes first; with --follow the oldest.
    """
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
            consistency=consistency(local),
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


def _note_bounds(out: Output, found: History, forward: bool, *, full: bool) -> None:
    """Note which part of the journal was not searched, or is no longer retained."""
    searched, retained = found.get("searched") if not full else None, found["first_retained"] or 1
    if forward and searched is not None and searched < found["index"]:
        out.note(f"searched up to index {searched}; continue with --after {searched}")
    elif not forward and searched is not None and searched > retained:
        out.note(f"searched back to index {searched}; continue with --before {searched}")
    elif retained > 1:
        out.note(f"the journal is retained from index {retained} on")


def _config(entry: Mapping[str, Any]) -> str:
    """The version of the configuration that was in force when the command ran; empty if there was none."""
    version = entry.get("config_version")
    return f"v{version}" if version else ""


@dataclass(frozen=True)
class _Filter:
    """Which commands `--follow` shows. None matches any."""

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
    """Print each new command on one line: text for people, or a JSON object for scripts."""

    async def work(client: Client) -> None:
        async for command in client.journal(after):
            if wanted.matches(command):
                sys.stdout.write(_line(command, output) + "\n")
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
