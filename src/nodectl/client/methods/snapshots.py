"""Methods for snapshots: list, save, restore, delete."""

from __future__ import annotations

from typing import Any, cast

from nodectl.client.connection.http import path_segment
from nodectl.client.connection.results import CommandResult
from nodectl.client.methods.calls import ApiCalls
from nodestore.schema.api_types import Snapshot, SnapshotContent, SnapshotRequest


class SnapshotCalls(ApiCalls):
    """The methods of Client for snapshots."""

    async def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, newest first. A snapshot with a `name` is kept until it is deleted."""
        return cast(list[Snapshot], (await self.get("/v1/snapshots"))["snapshots"])

    async def snapshot(self, name: str) -> SnapshotContent:
        """Return one snapshot with its `documents`. Raises NotFound."""
        return cast(SnapshotContent, await self.get(f"/v1/snapshots/{path_segment(name)}", timeout_s=30.0))

    async def snapshot_save(self, name: str) -> Snapshot:
        """Save the current state under a name. Raises Conflict if the name is taken."""
        return cast(Snapshot, await self.change("POST", "/v1/snapshots", SnapshotRequest(name=name)))

    async def snapshot_delete(self, name: str) -> None:
        """Delete a snapshot. Raises Conflict while the history holds a command that restored it."""
        await self.change("DELETE", f"/v1/snapshots/{path_segment(name)}", {})

    async def snapshot_restore(
        self, snapshot: str | None = None, *, index: int | None = None, timeout_s: float | None = None
    ) -> CommandResult:
        """Replace all documents by those of a snapshot, or by those of the state after the command `index`.

        This is an ordinary command with an index. To undo it, restore the state at the index before. The configuration,
        the remembered command ids and the generations are not restored.
        """
        args: dict[str, Any] = {"snapshot": snapshot} if index is None else {"index": index}
        return await self.command("snapshot.restore", args, timeout_s=timeout_s)
