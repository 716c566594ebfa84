"""`nodectl node act`, `restart` and `reboot`: one-shot actions of nodes, and their results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.arguments import TextValuesOption, parse_values
from nodectl.cli.confirmation import YesOption, confirm
from nodectl.cli.duration_option import duration_option
from nodectl.cli.session import with_client
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table
from nodestore.errors import Invalid, TimedOut

if TYPE_CHECKING:
    from nodectl.client import Client
    from nodectl.client.connection.results import ActionDone

NodeOrGroupArgument = Annotated[
    str | None, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=completion.nodes)
]
GroupOption = Annotated[
    str | None,
    typer.Option("--group", "-g", metavar="GROUP", help="All nodes of this group.", autocompletion=completion.groups),
]
_EXPIRES_S = 60.0
_RUN_ALLOWANCE_S = 60.0
_REBOOT_S = 600.0

ExpiresOption = Annotated[
    float,
    duration_option(
        "--expires",
        default_s=_EXPIRES_S,
        least_s=0.001,
        most_s=86_400,
        help="A node that has not begun the action after this time never begins it.",
    ),
]
ActionWaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the results.")]
ActionTimeoutOption = Annotated[
    float | None,
    duration_option(
        "--timeout", least_s=0.1, most_s=86_400, help="Give up waiting after this time (default: --expires plus 1m)."
    ),
]
RebootTimeoutOption = Annotated[
    float | None,
    duration_option(
        "--timeout", least_s=0.1, most_s=86_400, default_s=_REBOOT_S, help="Give up waiting after this time."
    ),
]


def act(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="[NODE] ACTION", help="ACTION is restart, reboot, or an action of the node's driver."),
    ],
    group: GroupOption = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            metavar="KEY=VALUE",
            help="Argument of the action. VALUE is JSON; if it is not valid JSON, it is text.",
        ),
    ] = None,
    text: TextValuesOption = None,
    expires: ExpiresOption = _EXPIRES_S,
    wait: ActionWaitOption = True,
    timeout: ActionTimeoutOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Run an action once on a node, or on all nodes of a group.

    Exit code 1 unless every node has done it.
    """
    if len(words) != (2 if group is None else 1):
        raise Invalid("give NODE ACTION, or --group GROUP ACTION")
    node = words[0] if group is None else None
    args = parse_values(arg or [], [], text or []) if arg or text else {}
    _send_action(context, words[-1], args, node, group, expires, wait, timeout, output)


def restart(
    context: typer.Context,
    node: NodeOrGroupArgument = None,
    group: GroupOption = None,
    expires: ExpiresOption = _EXPIRES_S,
    wait: ActionWaitOption = True,
    timeout: ActionTimeoutOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Restart the program that a node runs."""
    _send_action(context, "restart", {}, node, group, expires, wait, timeout, output)


def reboot(
    context: typer.Context,
    node: NodeOrGroupArgument = None,
    group: GroupOption = None,
    yes: YesOption = False,
    expires: ExpiresOption = _EXPIRES_S,
    wait: ActionWaitOption = True,
    timeout: RebootTimeoutOption = _REBOOT_S,
    output: OutputOption = Format.table,
) -> None:
    """Reboot the PC of a node.

    noded runs the reboot command that it was configured with. nodectl asks for confirmation first.
    """
    _check_target(node, group)
    if not yes:
        confirm(f"Reboot {f'node {node}' if group is None else f'all nodes of group {group}'}?")
    _send_action(context, "reboot", {}, node, group, expires, wait, timeout, output)


def _check_target(node: str | None, group: str | None) -> None:
    if (node is None) == (group is None):
        raise Invalid("give either a node or --group GROUP")


def _send_action(
    context: typer.Context, action: str, args: dict[str, Any], node: str | None, group: str | None, expires_s: float,
    wait: bool, timeout: float | None, output: Format,
) -> None:  # fmt: skip
    _check_target(node, group)
    out = Output(output)
    limit_s = timeout if timeout is not None else expires_s + _RUN_ALLOWANCE_S

    async def work(client: Client) -> tuple[Any, dict[str, ActionDone]]:
        request = await client.node_act(action, args, node=node, group=group, expires_s=expires_s)
        out.took_effect()
        ended: dict[str, ActionDone] = {}
        if wait:
            await _follow(client, request, ended, limit_s, out)
        return request, ended

    request, ended = with_client(context, work)
    nodes = list(request.result["nodes"])
    _show(out, action, request.index, nodes, ended, wait)
    if not wait:
        return
    if missing := [name for name in nodes if name not in ended]:
        raise TimedOut(f"waited {limit_s:g} s for {action}: no result yet from {', '.join(missing)}")
    if any(item.state != "done" for item in ended.values()):
        raise typer.Exit(1)


async def _follow(client: Client, request: Any, ended: dict[str, ActionDone], limit_s: float, out: Output) -> None:
    """Add each node's result to `ended` until all have one, or until `limit_s` is over."""
    total = len(request.result["nodes"])
    what = f"waiting for {request.result['action']}"
    with out.progress(what) as show:
        try:
            async with asyncio.timeout(limit_s):
                async for item in client.action_results(request):
                    ended[item.node] = item
                    show(f"{what}: {len(ended)} of {total} nodes")
        except TimeoutError:
            return  # the caller checks which results are missing


def _show(out: Output, action: str, index: int, nodes: list[str], ended: dict[str, ActionDone], wait: bool) -> None:
    """Show the result of each node; `pending` for a node without one."""
    rows = [
        {"node": name, "state": item.state, "result": item.result, "error": item.error}
        if (item := ended.get(name)) is not None
        else {"node": name, "state": "pending", "result": None, "error": None}
        for name in nodes
    ]

    def tables() -> list[Table]:
        from nodectl.terminal.format import inline

        table = Table(("NODE", "ACTION", "STATE", "RESULT", "ERROR"))
        for row in rows:
            style = {"done": "green", "pending": "yellow"}.get(str(row["state"]), "red")
            table.add(
                str(row["node"]), action, Cell(str(row["state"]), style), inline(row["result"]),
                Cell(str(row["error"] or ""), "red"),
            )  # fmt: skip
        return [table]

    out.show({"index": index, "action": action, "nodes": rows}, tables=tables, names=lambda: nodes)
    if out.form is Format.table:
        if not nodes:
            out.note("nothing to do: the group has no nodes")
        elif not wait:
            out.note(
                f"{action} requested (index {index}); `nodectl history --follow --after {index}` shows the results"
            )
