"""`nodectl history`: shows the commands in the journal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.arguments import LocalOption, consistency, parse_moment
from nodectl.cli.known_names import check_nodes
from nodectl.cli.session import with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import Consistency, History

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
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Only commands since this time: 15m, 2h, 3d, 02:30, 2026-11-30T02:30."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow new commands until Ctrl-C, also through changes of leader.")
    ] = False,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """Show the commands that were run: which, by whom and when.

    The newest comes first; with --follow the oldest. With a filter, all of the retained journal is searched.

    Kept: the commands of the last hour, and the last 10,000. Fewer if they take more than 24 MiB, or if etcd is nearly
    full. masterd with --audit-export passes them on, to keep more.
    """
    wanted = _Filter(node, actor, command, None if since is None else parse_moment(since, time.time()))
    out = Output(output)
    if follow:
        _follow(context, after, wanted, out)
        return

    async def work(client: Client) -> History:
        found = await _search(client, wanted, limit, before, after, consistency(local), out)
        if node is not None and not found["entries"]:  # the journal may hold commands of a node that was removed
            check_nodes([node], await client.nodes(consistency=consistency(local)))
        return found

    found = with_client(context, work, mask_secrets=output is Format.table)
    entries = found["entries"]

    def tables() -> list[Table]:
        from nodectl.terminal.format import inline, local_time

        table = Table(("INDEX", "TIME", "ACTOR", "COMMAND", "ARGUMENTS", "CONFIG", "TERM"), optional=("TERM", "CONFIG"))
        for entry in entries:
            if "problem" in entry:
                table.add("?", "", "", "", Cell(entry["problem"], "red"), "", "")
                continue
            table.add(
                str(entry["index"]),
                local_time(entry["time"]),
                _author(entry),
                entry["name"],
                inline(entry.get("args") or {}),
                _config(entry),
                f"{entry['epoch']}.{entry['term']}",
            )
        return [table]

    out.show(found, tables=tables, names=lambda: [str(entry["index"]) for entry in entries])
    if output is Format.table and found["first_retained"] and found["first_retained"] > 1 and len(entries) < limit:
        out.note(f"the journal is retained from index {found['first_retained']} on")


async def _search(
    client: Client, wanted: _Filter, limit: int, before: int | None, after: int | None, how: Consistency, out: Output
) -> History:
    """Fetch commands until there are `limit` of them or nothing is left: one answer covers a part of the journal."""
    entries: list[Any] = []
    with contextlib.ExitStack() as stack:
        show: Callable[[str], None] | None = None
        while True:
            page = await client.history(
                limit=limit - len(entries), before=before, after=after, node=wanted.node, actor=wanted.actor,
                command=wanted.command, since=wanted.since, consistency=how,
            )  # fmt: skip
            # An earlier masterd does not know `since` and `ended`.
            new = [entry for entry in page["entries"] if "problem" in entry or entry["time"] >= (wanted.since or 0)]
            entries += new
            if len(entries) >= limit or len(new) < len(page["entries"]) or _is_searched(page, before, after):
                return {**page, "entries": entries}
            if after is not None:
                after = page["searched"]
            else:
                before = page["searched"]
            show = show or stack.enter_context(out.progress("searching the history"))
            show(f"searching the history: index {page['searched']}, {len(entries)} commands found")


def _is_searched(page: History, before: int | None, after: int | None) -> bool:
    """Whether nothing is left to search beyond this answer."""
    searched = page["searched"]
    if page.get("ended") or searched is None or searched in (before, after):
        return True
    return searched >= page["index"] if after is not None else searched <= (page["first_retained"] or 1)


def _config(entry: Mapping[str, Any]) -> str:
    """The version of the configuration that was in force when the command ran; empty if there was none."""
    version = entry.get("config_version")
    return f"v{version}" if version else ""


@dataclass(frozen=True)
class _Filter:
    """Which commands are shown. None matches any. since: seconds since the Unix epoch."""

    node: str | None
    actor: str | None
    command: str | None
    since: float | None = None

    def matches(self, command: Mapping[str, Any]) -> bool:
        from nodestore.schema.models import affects_node

        return (
            (self.actor is None or command["actor"] == self.actor)
            and (self.command is None or command["name"] == self.command)
            and (self.since is None or command["time"] >= self.since)
            and (self.node is None or affects_node(command, self.node))
        )


def _follow(context: typer.Context, after: int | None, wanted: _Filter, out: Output) -> None:
    """Print each new command on one line: text for people, or a JSON object for scripts."""

    async def work(client: Client) -> None:
        if wanted.node is not None:
            check_nodes([wanted.node], await client.nodes(consistency="local"))
        async for command in client.journal(after):
            if wanted.matches(command):
                out.write_line(_line(command, out.form))

    with_client(context, work, mask_secrets=out.form is Format.table)


def _author(command: Mapping[str, Any]) -> str:
    """The actor, the address that the command came from, and for whom its sender said that it acted."""
    at, whom = command.get("address"), command.get("on_behalf_of")
    return f"{command['actor']}{f' at {at}' if at else ''}{f' for {whom}' if whom else ''}"


def _line(command: Mapping[str, Any], output: Format) -> str:
    from nodectl.terminal.format import inline, local_time
    from nodectl.terminal.output import escape_misleading
    from nodestore.support.jsonio import dumps

    if output is Format.name:
        return str(command["index"])
    if output is not Format.table:
        return dumps(dict(command)).decode()
    fields = (
        f"{command['index']:>7}",
        local_time(command["time"]),
        _author(command),
        command["name"],
        _config(command),
    )
    shown = (escape_misleading(field) for field in fields if field)
    return "  ".join((*shown, inline(command.get("args") or {})))
