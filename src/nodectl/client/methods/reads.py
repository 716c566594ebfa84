"""What a client can ask: each a GET of the masters' API, typed."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

from nodectl.client.connection.leadership import Leader
from nodectl.client.methods.calls import ApiCalls
from nodestore.schema.api_types import (
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


class ReadCalls(ApiCalls):
    """The reads of Client, on top of its `get`. `timeout_s` as there."""

    async def leader(self, *, consistency: Consistency = "linearizable", timeout_s: float | None = None) -> Leader:
        """Who leads."""
        return Leader.from_wire(await self.get("/v1/leader", consistency=consistency, timeout_s=timeout_s))

    async def masters(self, *, consistency: Consistency = "linearizable") -> list[MasterView]:
        return cast(list[MasterView], (await self.get("/v1/masters", consistency=consistency))["masters"])

    async def members(self, *, consistency: Consistency = "linearizable") -> list[MemberView]:
        """The members of etcd."""
        return cast(list[MemberView], (await self.get("/v1/members", consistency=consistency))["members"])

    async def nodes(
        self, *, consistency: Consistency = "linearizable", timeout_s: float | None = None
    ) -> list[NodeView]:
        found = await self.get("/v1/nodes", consistency=consistency, timeout_s=timeout_s)
        return cast(list[NodeView], found["nodes"])

    async def node(self, name: str, *, consistency: Consistency = "linearizable") -> NodeView:
        """NotFound when the adopted configuration has no such node."""
        return cast(NodeView, await self.get(f"/v1/nodes/{_segment(name)}", consistency=consistency))

    async def documents(
        self, prefix: str = "", *, consistency: Consistency = "linearizable"
    ) -> dict[str, DocumentView]:
        """The application's documents whose path begins with `prefix`."""
        found = await self.get("/v1/documents", {"prefix": prefix}, consistency=consistency)
        return cast(dict[str, DocumentView], found["documents"])

    async def document(self, path: str, *, consistency: Consistency = "linearizable") -> Document:
        escaped = "/".join(_segment(part) for part in path.split("/"))
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
        consistency: Consistency = "linearizable",
    ) -> History:
        """Commands by index, newest first; oldest first when `after` (an index) is given. `node`: what changed it, or
        is about its actions; `command`: the name."""
        query = {"limit": limit, "before": before, "after": after, "node": node, "actor": actor, "command": command}
        return cast(History, await self.get("/v1/history", query, consistency=consistency))

    async def terms(self, *, consistency: Consistency = "linearizable") -> list[TermView | UnreadableTerm]:
        """Who led since when, and why; newest first."""
        found = await self.get("/v1/terms", consistency=consistency)
        return cast(list[TermView | UnreadableTerm], found["terms"])

    async def status(self, *, consistency: Consistency = "linearizable", timeout_s: float | None = None) -> Overview:
        return cast(Overview, await self.get("/v1/status", consistency=consistency, timeout_s=timeout_s))


def _segment(text: str) -> str:
    return quote(text, safe="")
