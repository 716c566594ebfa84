"""Snapshots, as a client uses them."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

from nodectl.client.connection.results import CommandResult
from nodectl.client.methods.calls import ApiCalls
from nodestore.schema.api_types import Snapshot, SnapshotContent, SnapshotRequest


class SnapshotCalls(ApiCalls):
    """Saved states, and going back to one."""

    async def snapshots(self) -> list[Snapshot]:
        """All snapshots, newest first. Those with a `name` are kept until deleted."""
        return cast(list[Snapshot], (await self.get("/v1/snapshots"))["snapshots"])

    async def snapshot(self, name: str) -> SnapshotContent:
        """One snapshot with its `documents`."""
        return cast(SnapshotContent, await self.get(f"/v1/snapshots/{quote(name, safe='')}", timeout_s=30.0))

    async def snapshot_save(self, name: str) -> Snapshot:
        """Saves the state as it is now under a name. Conflict when the name is taken."""
        return cast(Snapshot, await self.change("POST", "/v1/snapshots", SnapshotRequest(name=name)))

    async def snapshot_delete(self, name: str) -> None:
        """Conflict while a command that is still in the history restored it."""
        await self.change("DELETE", f"/v1/snapshots/{quote(name, safe='')}", {})

    async def snapshot_restore(
        self, snapshot: str | None = None, *, index: int | None = None, timeout_s: float | None = None
    ) -> CommandResult:
        """Replaces all documents by those of a snapshot, or by those that were there after the command `index`.

        An ordinary command: it has an index and can itself be undone by restoring the index before it. Configuration,
        ids of commands and generations stay.
        """
        args: dict[str, Any] = {"snapshot": snapshot} if index is None else {"index": index}
        return await self.command("snapshot.restore", args, timeout_s=timeout_s)
