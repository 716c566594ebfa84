"""Sends one command, waits for its effect on nodes if requested, and shows the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from nodectl.cli.arguments import WAIT_S
from nodectl.cli.session import wait_until, with_client
from nodectl.terminal.output import Format, Output
from nodestore.errors import Refused

if TYPE_CHECKING:
    from nodectl.client import Client, CommandResult
    from nodestore.schema.api_types import NodeView


def send(
    context: typer.Context,
    output: Format,
    command: Callable[[Client], Awaitable[CommandResult]],
    message: str,
    *,
    name: str,
    nodes: Callable[[CommandResult], list[str] | None] | None = None,
    timeout_s: float = WAIT_S,
) -> None:
    """Run `command` with a client, show its result, and add the sentence `message` for people.

    `nodes(result)` returns the names of the nodes to wait for, or None for all nodes. If `nodes` is None, there is no
    wait. A wait takes at most `timeout_s` seconds.
    """
    out = Output(output)

    async def work(client: Client) -> dict[str, Any]:
        done = await command(client)
        out.took_effect()
        if nodes is not None:
            wanted = nodes(done)
            names = [view["name"] for view in await client.nodes()] if wanted is None else wanted
            await wait_for_nodes(client, names, timeout_s, out)
        return as_dict(done)

    result = with_client(context, work)
    out.show(result, tables=list, names=lambda: [name])
    if output is Format.table:
        out.note(f"{message} (index {result['index']})")


def as_dict(done: CommandResult) -> dict[str, Any]:
    return {"index": done.index, "id": done.id, "result": done.result, "repeated": done.repeated}


async def wait_for_nodes(client: Client, names: list[str], timeout_s: float, out: Output) -> None:
    """Wait until these nodes are in their desired state.

    Raises TimedOut after `timeout_s` seconds, and Refused as soon as a node reports that it cannot reach that state.
    Reads are linearizable, so a command that was acknowledged before this call is taken into account.
    """
    if not names:
        return

    async def missing() -> str | None:
        views = {view["name"]: view for view in await client.nodes() if view["name"] in names}
        failures = [f"node {name} cannot reach its desired state: {error}" for name, error in _failures(views)]
        if failures:
            raise Refused("; ".join(failures))
        lacking = [_missing_text(views.get(name), name) for name in names]
        return "; ".join(text for text in lacking if text) or None

    subject = f"node {names[0]} is" if len(names) == 1 else f"{len(names)} nodes are"
    await wait_until(missing, f"{subject} in the desired state", timeout_s, out)


def _failures(views: Mapping[str, NodeView]) -> Iterator[tuple[str, str]]:
    """Yield the names and errors of the nodes that report phase `failed` for the generation that is desired."""
    for name, view in views.items():
        status, desired = view.get("status") or {}, view.get("desired")
        generation = desired["generation"] if desired else 0
        if status.get("phase") == "failed" and status.get("observed_generation", 0) >= generation:
            yield name, str(status.get("error") or "it does not say why")


def _missing_text(view: NodeView | None, name: str) -> str:
    """What keeps a node from its desired state; empty if nothing does."""
    from nodectl.terminal.format import node_state

    if view is not None and view["converged"]:
        return ""
    if view is None:
        return f"{name} is not in the configuration"
    return f"{name}: {view.get('problem') or node_state(view).text}"
