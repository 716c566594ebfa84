"""`nodectl node`: shows nodes, changes their documents, and runs actions on them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli import completion, node_actions, node_logs
from nodectl.cli.arguments import (
    WAIT_S,
    LocalOption,
    NodeArgument,
    TextValuesOption,
    TimeoutOption,
    WaitOption,
    consistency,
    parse_values,
)
from nodectl.cli.known_names import check_group, check_nodes
from nodectl.cli.sending import send
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table, needs_ascii

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodestore.schema.api_types import NodeView

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show nodes and their logs, change their documents, run actions on them.",
)


@app.command("list")
def list_nodes(
    context: typer.Context,
    group: Annotated[
        str | None,
        typer.Option(
            "--group", "-g", metavar="GROUP", help="Only nodes of this group.", autocompletion=completion.groups
        ),
    ] = None,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """List the nodes and their state."""

    async def work(client: Client) -> list[NodeView]:
        nodes = await client.nodes(consistency=consistency(local), specs=True)
        if group is None:
            return nodes
        await check_group(client, group, nodes, consistency(local))
        return [node for node in nodes if group == "all" or group in node["groups"]]

    show_nodes(Output(output), with_client(context, work, mask_secrets=output is Format.table))


def show_nodes(out: Output, nodes: list[NodeView]) -> None:
    from nodectl.terminal.format import nodes_table

    out.show(nodes, tables=lambda: [nodes_table(nodes)], names=lambda: [node["name"] for node in nodes])


@app.command("show")
def show(
    context: typer.Context, node: NodeArgument, local: LocalOption = False, output: OutputOption = Format.table
) -> None:
    """Show the details of a node."""

    async def work(client: Client) -> NodeView:
        return await client.node(node, consistency=consistency(local), specs=True)

    view = with_client(context, work, mask_secrets=output is Format.table)
    Output(output).show(view, tables=lambda: [_details(view)], names=lambda: [view["name"]])


def _details(view: NodeView) -> Table:
    from nodectl.terminal.format import format_age, inline, node_state
    from nodectl.terminal.output import Cell

    status, alive, desired = view.get("status") or {}, view.get("alive") or {}, view.get("desired")
    table = Table(("FIELD", "VALUE"))
    table.add("node", view["name"])
    table.add("state", node_state(view))
    table.add("problem", Cell(view.get("problem") or "", "red"))
    table.add("address", view.get("address", ""))
    position = view.get("position")
    table.add("position", f"row {position[0]}, column {position[1]}" if position else "")
    table.add("groups", ", ".join(view.get("groups", [])))
    table.add("labels", inline(view.get("labels", {}), 200))
    table.add("driver", view.get("driver") or "")
    table.add("own document", inline(view.get("document") or {}, 400))
    spec = view.get("spec")
    if spec is not None:
        table.add("document", inline(spec["document"], 400))
        table.add("settings", inline(spec["settings"], 400))
    if desired:
        table.add("generation", f"{desired['generation']}, observed {status.get('observed_generation', 'none')}")
    table.add("actual", inline(status.get("actual") or {}, 400))
    table.add("last reason", str(status.get("reason", "")))
    table.add("last error", Cell(str(status.get("error") or ""), "red"))
    table.add("reported", f"{format_age(status['time'])} ago" if status.get("time") else "")
    table.add("host", f"{alive.get('host')} (pid {alive.get('pid')})" if alive else "")
    table.add("waiting", Cell(", ".join(view.get("waiting", [])), "yellow"))
    return table


@app.command("set")
def set_values(
    context: typer.Context,
    node: NodeArgument,
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="VALUE is JSON; if it is not valid JSON, it is text. KEY- removes KEY."
        ),
    ] = None,
    text: TextValuesOption = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", metavar="KEY", help="Remove KEY.")] = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Set and remove values of a node's document. Other values stay."""
    changes = parse_values(values or [], unset or [], text or [])
    waited = (lambda _: [node]) if wait else None
    send(
        context, output, lambda client: client.node_set(node, changes), f"{node} changed",
        name=node, nodes=waited, timeout_s=timeout,
    )  # fmt: skip


@app.command("clear")
def clear(
    context: typer.Context,
    node: NodeArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Remove a node's own document. The document of the configuration then applies alone."""
    waited = (lambda _: [node]) if wait else None
    send(
        context, output, lambda client: client.node_clear(node), f"{node} cleared",
        name=node, nodes=waited, timeout_s=timeout,
    )  # fmt: skip


@app.command("watch")
def watch(
    context: typer.Context,
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="NODE", help="Only these nodes (default: all).", autocompletion=completion.nodes),
    ] = None,
    output: OutputOption = Format.table,
) -> None:
    """Follow the nodes until Ctrl-C, with one line for each change.

    -o json prints one JSON object for each change.
    """
    wanted, out = set(nodes or []), Output(output)

    async def work(client: Client) -> None:
        if wanted:
            check_nodes(sorted(wanted), await client.nodes(consistency="local"))
        async for changes in client.watch_nodes():
            for view in changes.nodes:
                if not wanted or view["name"] in wanted:
                    _watch_line(out, view)

    with_client(context, work)


def _watch_line(out: Output, view: NodeView) -> None:
    import time

    from nodectl.terminal.format import inline, node_state
    from nodectl.terminal.output import as_yaml, escape_misleading

    if out.form is Format.json:
        out.write_line(json.dumps(view, ensure_ascii=needs_ascii(out.stdout)))
    elif out.form is Format.yaml:
        out.write_line("---\n" + as_yaml(view).removesuffix("\n"))
    elif out.form is Format.name:
        out.write_line(view["name"])
    else:
        desired = view.get("desired")
        fields = (
            time.strftime("%H:%M:%S"),
            view["name"].ljust(8),
            node_state(view).text.ljust(10),
            f"generation {desired['generation']}" if desired else "no desired state",
            inline((view.get("status") or {}).get("actual") or {}, 80),
            escape_misleading(view.get("problem") or ""),
        )
        out.write_line("  ".join(fields).rstrip())


app.command("logs")(node_logs.logs)
app.command("act")(node_actions.act)
app.command("restart")(node_actions.restart)
app.command("reboot")(node_actions.reboot)
