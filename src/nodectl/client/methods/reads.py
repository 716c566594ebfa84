"""The typed reads of the client: one GET of the masters' API each."""

from __future__ import annotations

from typing import cast

from nodectl.client.connection.http import path_segment
from nodectl.client.connection.leadership import Leader
from nodectl.client.methods.calls import ApiCalls
from nodestore.schema.api_types import (
    Application,
    CommandInfo,
    Consistency,
    Document,
    DocumentView,
    History,
    MasterView,
    MemberView,
    NodeView,
    Overview,
    TermView,
    UnreadableTerm,
)

_SPECS = {"spec": "true"}


class ReadCalls(ApiCalls):
    """The reads of Client, each a call of `get`: `consistency`, `timeout_s` and errors are those of `get`."""

    async def leader(self, *, consistency: Consistency = "linearizable", timeout_s: float | None = None) -> Leader:
        """Return the current leader."""
        return Leader.from_wire(await self.get("/v1/leader", consistency=consistency, timeout_s=timeout_s))

    async def masters(self, *, consistency: Consistency = "linearizable") -> list[MasterView]:
        """Return the leader and the standbys."""
        return cast(list[MasterView], (await self.get("/v1/masters", consistency=consistency))["masters"])

    async def application(self, *, consistency: Consistency = "local") -> Application:
        """Return the application that may lead, and what each masterd runs and has rehearsed.

        By default any masterd answers, because with another application than the recorded one there is no leader.
        """
        return cast(Application, await self.get("/v1/application", consistency=consistency))

    async def members(self, *, consistency: Consistency = "linearizable") -> list[MemberView]:
        """Return the members of the etcd cluster."""
        return cast(list[MemberView], (await self.get("/v1/members", consistency=consistency))["members"])

    async def nodes(
        self, *, consistency: Consistency = "linearizable", timeout_s: float | None = None, specs: bool = False
    ) -> list[NodeView]:
        """Return all nodes of the adopted configuration.

        `specs`: with a `spec`, which is what the node must be: driver, effective settings and effective document, with
        secrets masked.
        """
        found = await self.get("/v1/nodes", _SPECS if specs else None, consistency=consistency, timeout_s=timeout_s)
        return cast(list[NodeView], found["nodes"])

    async def node(self, name: str, *, consistency: Consistency = "linearizable", specs: bool = False) -> NodeView:
        """Return one node; `specs` as for `nodes`. Raises NotFound if the adopted configuration has no such node."""
        path = f"/v1/nodes/{path_segment(name)}"
        return cast(NodeView, await self.get(path, _SPECS if specs else None, consistency=consistency))

    async def commands(self) -> list[CommandInfo]:
        """Return the commands that the application of any masterd has, with the JSON Schemas of their arguments."""
        return cast(list[CommandInfo], (await self.get("/v1/commands", consistency="local"))["commands"])

    async def documents(
        self, prefix: str = "", *, consistency: Consistency = "linearizable"
    ) -> dict[str, DocumentView]:
        """Return the application's documents whose path begins with `prefix`, by path."""
        found = await self.get("/v1/documents", {"prefix": prefix}, consistency=consistency)
        return cast(dict[str, DocumentView], found["documents"])

    async def document(self, path: str, *, consistency: Consistency = "linearizable") -> Document:
        """Return one document. Raises NotFound if there is none at `path`."""
        escaped = "/".join(path_segment(part) for part in path.split("/"))
        return cast(Document, await self.get(f"/v1/documents/{escaped}", consistency=consistency))

    async def history(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        after: int | None = None,
        node: str | None = None,
        actor: str | None = None,
        command: str | None = None,
        since: float | None = None,
        consistency: Consistency = "linearizable",
    ) -> History:
        """Return at most `limit` commands, newest first; with `after` (an index), oldest first from there on.

        `before`: only commands below this index. `node`: only commands that changed this node or concern its actions.
        `actor`: only those of this author. `command`: only those of this name. `since`: only those from this time on,
        in seconds since the Unix epoch. An answer covers a limited part of the journal: unless it is `ended`, continue
        with `before` or `after` set to its `searched`.
        """
        query: dict[str, str | int | None] = {
            "limit": limit, "before": before, "after": after, "node": node, "actor": actor, "command": command,
            "since": None if since is None else repr(float(since)),
        }  # fmt: skip
        return cast(History, await self.get("/v1/history", query, consistency=consistency))

    async def terms(self, *, consistency: Consistency = "linearizable") -> list[TermView | UnreadableTerm]:
        """Return the terms, newest first: who led since when, and why."""
        found = await self.get("/v1/terms", consistency=consistency)
        return cast(list[TermView | UnreadableTerm], found["terms"])

    async def status(self, *, consistency: Consistency = "linearizable", timeout_s: float | None = None) -> Overview:
        """Return the overview: leader, masters, members, nodes, configuration, pause and problems."""
        return cast(Overview, await self.get("/v1/status", consistency=consistency, timeout_s=timeout_s))
