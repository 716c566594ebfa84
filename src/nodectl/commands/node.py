"""`nodectl node`: what nodes are and what they do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.output import Format, Output, OutputOption, Table
from nodectl.session import wait_until, with_client
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.client.wire import NodeView

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Show nodes and change what they do."
)

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until the nodes have done it.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, max=86400, metavar="SECONDS", help="How long --wait waits at most.")
]
LocalOption = Annotated[
    bool, typer.Option("--local", help="Take what any master knows, which may be a little old; needs no leader.")
]
WAIT_S = 30.0


@app.command("list")
def list_nodes(
    context: typer.Context,
    group: Annotated[
        str | None, typer.Option("--group", "-g", metavar="GROUP", help="Only nodes of this group.")
    ] = None,
    local: LocalOption = False,
    output: OutputOption = Format.table,
) -> None:
    """List nodes and how they are."""

    async def work(client: Client) -> list[NodeView]:
        return await client.nodes(consistency="local" if local else "linearizable")

    nodes = with_client(context, work)
    if group not in (None, "all"):
        nodes = [node for node in nodes if group in node["groups"]]
    show_nodes(Output(output), nodes)


def show_nodes(out: Output, nodes: list[NodeView]) -> None:
    from nodectl.present import nodes_table

    out.show(nodes, tables=lambda: [nodes_table(nodes)], names=lambda: [node["name"] for node in nodes])


@app.command("show")
def show(
    context: typer.Context, node: NodeArgument, local: LocalOption = False, output: OutputOption = Format.table
) -> None:
    """Show all that is known of a node."""

    async def work(client: Client) -> NodeView:
        return await client.node(node, consistency="local" if local else "linearizable")

    view = with_client(context, work)
    Output(output).show(view, tables=lambda: [_details(view)], names=lambda: [view["name"]])


def _details(view: NodeView) -> Table:
    from nodectl.output import Cell
    from nodectl.present import ago, inline, state_of

    status, alive, desired = view.get("status") or {}, view.get("alive") or {}, view.get("desired")
    table = Table(("FIELD", "VALUE"))
    table.add("node", view["name"])
    table.add("state", state_of(view))
    table.add("problem", Cell(view.get("problem") or "", "red"))
    table.add("address", view.get("address", ""))
    position = view.get("position")
    table.add("position", f"row {position[0]}, column {position[1]}" if position else "")
    table.add("groups", ", ".join(view.get("groups", [])))
    table.add("labels", inline(view.get("labels", {}), 200))
    table.add("driver", view.get("driver") or "")
    table.add("own document", inline(view.get("document") or {}, 400))
    if desired:
        table.add("generation", f"{desired['generation']}, observed {status.get('observed_generation', 'none')}")
    table.add("actual", inline(status.get("actual") or {}, 400))
    table.add("last reason", str(status.get("reason", "")))
    table.add("last error", Cell(str(status.get("error") or ""), "red"))
    table.add("reported", f"{ago(status['time'])} ago" if status.get("time") else "")
    table.add("host", f"{alive.get('host')} (pid {alive.get('pid')})" if alive else "")
    return table


@app.command("set")
def set_values(
    context: typer.Context,
    node: NodeArgument,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="VALUE is JSON, or text if it is none; KEY- removes KEY."),
    ] = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", metavar="KEY", help="Remove this key.")] = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Change values of a node's document; other values stay."""
    changes = parse_values(values or [], unset or [])
    out = Output(output)

    async def work(client: Client) -> Any:
        done = await client.node_set(node, changes)
        if wait:
            await wait_for_nodes(client, [node], timeout, out)
        return _result(done)

    show_result(out, with_client(context, work), node, "changed")


@app.command("clear")
def clear(
    context: typer.Context,
    node: NodeArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Remove a node's own document: what the configuration says remains."""
    out = Output(output)

    async def work(client: Client) -> Any:
        done = await client.node_clear(node)
        if wait:
            await wait_for_nodes(client, [node], timeout, out)
        return _result(done)

    show_result(out, with_client(context, work), node, "cleared")


@app.command("watch")
def watch(
    context: typer.Context,
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE...]", help="Only these nodes.")] = None,
    output: OutputOption = Format.table,
) -> None:
    """Follow nodes until Ctrl-C: one line (or one JSON object a line) for each change."""
    wanted = set(nodes or [])

    async def work(client: Client) -> None:
        async for changes in client.watch_nodes():
            for view in changes.nodes:
                if not wanted or view["name"] in wanted:
                    _watch_line(output, view)

    with_client(context, work)


def _watch_line(form: Format, view: NodeView) -> None:
    import time

    from nodectl.present import inline, state_of

    out = Output(form)
    if form is Format.json:
        out.write(json.dumps(view, ensure_ascii=False) + "\n")
    elif form is Format.yaml:
        out.write("---\n")
        out.show(view, tables=list)
    elif form is Format.name:
        out.write(view["name"] + "\n")
    else:
        desired = view.get("desired")
        fields = (
            time.strftime("%H:%M:%S"),
            view["name"].ljust(8),
            state_of(view).text.ljust(10),
            f"generation {desired['generation']}" if desired else "no desired state",
            inline((view.get("status") or {}).get("actual") or {}, 80),
            view.get("problem") or "",
        )
        out.write("  ".join(fields).rstrip() + "\n")
    out.stdout.flush()


# --- shared with scene ----------------------------------------------------------------------------------------------


async def wait_for_nodes(client: Client, names: list[str], timeout_s: float, out: Output) -> None:
    """Until these nodes are in their desired state. Reads are linearizable, so a command done before counts."""

    async def missing() -> str | None:
        views = {view["name"]: view for view in await client.nodes() if view["name"] in names}
        lacking = [_lacking(views.get(name), name) for name in names]
        return "; ".join(text for text in lacking if text) or None

    subject = f"node {names[0]} has" if len(names) == 1 else f"{len(names)} nodes have"
    await wait_until(missing, f"{subject} done it", timeout_s, out)


def _lacking(view: NodeView | None, name: str) -> str:
    """What a node still lacks; nothing when it is in its desired state."""
    from nodectl.present import state_of

    if view is not None and view["converged"]:
        return ""
    if view is None:
        return f"{name} is not in the configuration"
    return f"{name}: {view.get('problem') or state_of(view).text}"


def _result(done: Any) -> dict[str, Any]:
    return {"index": done.index, "id": done.id, "result": done.result, "repeated": done.repeated}


def show_result(out: Output, result: dict[str, Any], name: str, verb: str) -> None:
    """A command's result; people get one sentence, on stderr."""
    out.show(result, tables=list, names=lambda: [name])
    if out.form is Format.table:
        out.note(f"{name} {verb} (index {result['index']})")


def parse_values(values: list[str], unset: list[str]) -> dict[str, Any]:
    """KEY=VALUE and KEY- as a merge: null removes a key. Invalid when one is neither."""
    found: dict[str, Any] = {}
    for text in values:
        key, separator, value = text.partition("=")
        if not separator and key.endswith("-") and len(key) > 1:
            _add(found, key[:-1], None)
        elif not separator or not key:
            raise Invalid(f"{text!r} is not KEY=VALUE (or KEY- to remove KEY)")
        else:
            _add(found, key, parse_value(value))
    for key in unset:
        _add(found, key, None)
    if not found:
        raise Invalid("nothing to change: give KEY=VALUE, KEY- or --unset KEY")
    return found


def _add(found: dict[str, Any], key: str, value: Any) -> None:
    if key in found:
        raise Invalid(f"key {key!r} is given twice")
    found[key] = value


def parse_value(text: str) -> Any:
    """`text` as JSON if it is JSON, else as it is: `5` is a number, `"5"` and `red` are text."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except ValueError:
        return text


def _not_json(name: str) -> Any:
    raise ValueError(name)
