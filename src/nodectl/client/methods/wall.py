"""The commands of the built-in application, and actions of nodes, by name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from nodectl.client.connection.results import ActionDone, CommandResult
from nodectl.client.methods.calls import ApiCalls
from nodestore.errors import Invalid

ACTION_DONE = "action.done"


class WallCalls(ApiCalls):
    """Each is one command; errors and `timeout_s` as for `Client.command`."""

    async def node_set(self, node: str, values: Mapping[str, Any], *, timeout_s: float | None = None) -> CommandResult:
        """Merges `values` into the node's document; None removes a key."""
        return await self.command("node.set", {"node": node, "values": dict(values)}, timeout_s=timeout_s)

    async def node_put(
        self, node: str, document: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> CommandResult:
        """Replaces the node's document."""
        return await self.command("node.put", {"node": node, "document": dict(document)}, timeout_s=timeout_s)

    async def node_clear(self, node: str, *, timeout_s: float | None = None) -> CommandResult:
        """Removes the node's document: what configuration and groups say remains."""
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
        """Has one node, or all of a group, do something once: `restart`, `reboot`, or an action of its driver.

        Begun at most once by each, and not later than `expires_s` seconds from now (None: the master's default). The
        result names the `nodes`; what comes of it, `action_results` tells.
        """
        if (node is None) == (group is None):
            raise Invalid("an action is for one node or for a group: give either")
        wanted: dict[str, Any] = {"action": action, "args": dict(args or {}), "node": node, "group": group}
        wanted["expires_s"] = expires_s
        return await self.command(
            "node.act", {name: value for name, value in wanted.items() if value is not None}, timeout_s=timeout_s
        )

    async def action_results(self, asked: CommandResult) -> AsyncIterator[ActionDone]:
        """What came of `asked`, the result of `node_act`: one for each node, as it ends; it ends after the last."""
        waiting = set(asked.result["nodes"])
        if not waiting:
            return
        async with contextlib.aclosing(self.journal(asked.index)) as journal:
            async for told in journal:
                args, result = told.get("args") or {}, told.get("result") or {}
                if told["name"] != ACTION_DONE or args.get("index") != asked.index or args.get("node") not in waiting:
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
        """Saves a scene from `nodes`, or from the nodes' present documents."""
        args: dict[str, Any] = {"name": name, "description": description}
        if nodes is not None:
            args["nodes"] = {node: dict(document) for node, document in nodes.items()}
        return await self.command("scene.save", args, timeout_s=timeout_s)

    async def scene_apply(self, name: str, *, group: str = "all", timeout_s: float | None = None) -> CommandResult:
        """Puts the scene's documents on the nodes of a group, in one command."""
        return await self.command("scene.apply", {"name": name, "group": group}, timeout_s=timeout_s)

    async def scene_delete(self, name: str, *, timeout_s: float | None = None) -> CommandResult:
        return await self.command("scene.delete", {"name": name}, timeout_s=timeout_s)
