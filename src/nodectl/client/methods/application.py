"""Methods for the commands of the built-in application (`nodesdk.scenes`) and for actions of nodes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from nodectl.client.connection.http import as_object
from nodectl.client.connection.results import ActionDone, CommandResult
from nodectl.client.methods.calls import ApiCalls
from nodestore.errors import Invalid

ACTION_DONE = "action.done"


class ApplicationCalls(ApiCalls):
    """Each method sends one command. Errors and `timeout_s` (seconds) are those of `Client.command`."""

    async def node_set(self, node: str, values: Mapping[str, Any], *, timeout_s: float | None = None) -> CommandResult:
        """Merge `values` into the node's document; the value None removes a key."""
        return await self.command(
            "node.set", {"node": node, "values": as_object(values, "values")}, timeout_s=timeout_s
        )

    async def node_put(
        self, node: str, document: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> CommandResult:
        """Replace the node's document."""
        return await self.command(
            "node.put", {"node": node, "document": as_object(document, "document")}, timeout_s=timeout_s
        )

    async def node_clear(self, node: str, *, timeout_s: float | None = None) -> CommandResult:
        """Remove the node's document; the values from the configuration and the groups remain."""
        return await self.command("node.clear", {"node": node}, timeout_s=timeout_s)

    async def node_act(
        self,
        action: str,
        args: Mapping[str, Any] | None = None,
        *,
        node: str | None = None,
        group: str | None = None,
        expires_s: float | None = None,
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Order one node, or all nodes of a group, to run an action: `restart`, `reboot`, or one of its driver's.

        Each node begins the action at most once, and not later than `expires_s` seconds from now (None: the master's
        default). The result holds the names of the `nodes`; `action_results` yields their outcomes. Raises Invalid
        unless exactly one of `node` and `group` is given.
        """
        if (node is None) == (group is None):
            raise Invalid("an action is for one node or for one group: pass either `node` or `group`")
        arguments = {} if args is None else as_object(args, "args")
        wanted: dict[str, Any] = {"action": action, "args": arguments, "node": node, "group": group}
        wanted["expires_s"] = expires_s
        return await self.command(
            "node.act", {name: value for name, value in wanted.items() if value is not None}, timeout_s=timeout_s
        )

    async def action_results(self, asked: CommandResult) -> AsyncIterator[ActionDone]:
        """Yield the outcome on each node when the action ends there; stop after the last node.

        `asked`: the result of `node_act`.
        """
        waiting = set(asked.result["nodes"])
        if not waiting:
            return
        async with contextlib.aclosing(self.journal(asked.index)) as journal:
            async for command in journal:
                args, result = command.get("args") or {}, command.get("result") or {}
                is_end = command["name"] == ACTION_DONE and args.get("index") == asked.index
                if not is_end or args.get("node") not in waiting:
                    continue
                waiting.discard(args["node"])
                yield ActionDone(args["node"], str(result.get("state")), result.get("result"), result.get("error"))
                if not waiting:
                    return

    async def scene_save(
        self,
        name: str,
        nodes: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        description: str = "",
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Save a scene from `nodes` (node name to document), or from the nodes' current documents."""
        args: dict[str, Any] = {"name": name, "description": description}
        if nodes is not None:
            wanted = as_object(nodes, "nodes")
            args["nodes"] = {node: as_object(document, f"nodes.{node}") for node, document in wanted.items()}
        return await self.command("scene.save", args, timeout_s=timeout_s)

    async def scene_apply(self, name: str, *, group: str = "all", timeout_s: float | None = None) -> CommandResult:
        """Replace the documents of the nodes of a group by those of the scene, in one command."""
        return await self.command("scene.apply", {"name": name, "group": group}, timeout_s=timeout_s)

    async def scene_delete(self, name: str, *, timeout_s: float | None = None) -> CommandResult:
        """Delete a scene; the nodes keep their documents."""
        return await self.command("scene.delete", {"name": name}, timeout_s=timeout_s)
