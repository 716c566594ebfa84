"""Snapshots and earlier configurations, as a client uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from nodectl.client.reads import Reads
from nodectl.client.wire import CommandResult
from nodestore.errors import NotFound


class Archive(Reads):
    """The reads of Client, and its snapshots on top of them, of `change` and of `command`."""

    async def change(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer of a request that changes something and is not repeated once it may have been received."""
        raise NotImplementedError

    async def command(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        after: int | None = None,
        timeout_s: float | None = None,
    ) -> CommandResult:
        """Runs one command."""
        raise NotImplementedError

    async def config_apply(
        self, inventory: Mapping[str, Any], *, source: str = "", expect_version: int | None = None
    ) -> int:
        """Applies an inventory; its version."""
        raise NotImplementedError

    async def snapshots(self) -> list[dict[str, Any]]:
        """All snapshots, newest first. Those with a `name` are kept until deleted."""
        return list((await self.get("/v1/snapshots"))["snapshots"])

    async def snapshot(self, name: str) -> dict[str, Any]:
        """One snapshot with its `documents`."""
        return dict(await self.get(f"/v1/snapshots/{quote(name, safe='')}", timeout_s=30.0))

    async def snapshot_save(self, name: str) -> dict[str, Any]:
        """Saves the state as it is now under a name. Conflict when the name is taken."""
        return dict(await self.change("POST", "/v1/snapshots", {"name": name}))

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

    async def config_history(self, *, limit: int = 50) -> list[dict[str, Any]]:
        """The configurations that were applied, newest first, each with `version`, `actor`, `time`, `inventory`."""
        return list((await self.get("/v1/config/history", {"limit": limit}))["versions"])

    async def config_rollback(self, version: int) -> int:
        """Applies an earlier configuration again, as a new version; that version."""
        found = await self.config_history(limit=1000)
        for record in found:
            if record.get("version") == version:
                newest = max(int(item["version"] or 0) for item in found)
                return await self.config_apply(
                    record["inventory"], source=record.get("source", ""), expect_version=newest
                )
        raise NotFound(f"there is no configuration version {version} (nodectl config history)")
