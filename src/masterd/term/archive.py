"""Named snapshots: save, delete, read and restore; and the reconstruction of the state at any retained index.

The state at an index is a snapshot plus the journal entries after it. Entries hold the documents that were written, so
the state at an index can be reconstructed as long as a snapshot before it and all entries up to it are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from masterd.replication.images import Image
from masterd.replication.journal_reader import read_entries
from masterd.state_machine.state import State
from masterd.term.retention import JournalRetention
from nodestore.cluster.election import Fence
from nodestore.errors import Conflict, Garbage, Invalid, NotFound
from nodestore.schema.keys import check_name
from nodestore.schema.models import Manifest
from nodestore.schema.records import with_commands
from nodestore.support.jsonio import Document
from nodestore.support.time_slices import TimeSlice

_PAGE_ENTRIES = 32


class SnapshotArchive:
    """Manages the named snapshots for the leader of one term."""

    def __init__(self, fence: Fence, retention: JournalRetention) -> None:
        self._fence, self._retention = fence, retention
        self._replica = retention.replica
        self._snapshots = retention.replica.snapshots

    async def save(self, name: str) -> Manifest:
        """Write the current documents as a snapshot that is kept until it is deleted.

        Conflict if the name is taken or there are too many; TooLarge if they take too many bytes.
        """
        return await self._retention.write_named(check_name("snapshot", name))

    async def delete(self, name: str) -> None:
        """Delete a named snapshot. Conflict if a retained journal entry restores it, because replicas still need it."""
        full, manifest = await self._snapshots.find(name)
        if manifest.name is None:
            raise Conflict(f"{full} is an automatic snapshot: masterd deletes it when it is no longer needed")
        self._snapshots.note_deletion(full)
        if not await self._snapshots.delete(self._fence, full, self._retention.is_needed):
            self._snapshots.note_kept(full)
            naming = [index for index, used in self._replica.state.restores.items() if used == full]
            if naming:
                needed_by = f"the journal's command at index {naming[0]} restores it. Try again once that is truncated"
            else:
                needed_by = "a command is restoring it. Try again later"
            raise Conflict(f"snapshot {name!r} cannot be deleted: {needed_by}")

    async def documents(self, name: str) -> dict[str, Document]:
        full, _ = await self._snapshots.find(name)
        return await self._snapshots.read_documents(full)

    async def prepare_restore(self, args: Mapping[str, Any]) -> tuple[str, dict[str, Document]]:
        """Return the full name and the documents of the snapshot to restore, and pin it.

        args: either `snapshot`, a name, or `index`, whose state is first written as a snapshot. The caller unpins the
        snapshot once its commit has succeeded or failed. Raises Invalid, NotFound or Garbage.
        """
        name, index = args.get("snapshot"), args.get("index")
        if isinstance(name, str) and index is None:
            full, _ = await self._snapshots.find(name)
            self._retention.pinned.add(full)
            return full, await self._snapshots.read_documents(full)
        if isinstance(index, int) and not isinstance(index, bool) and name is None:
            image = await self.image_at(index)
            full = await self._retention.write_pinned(image)
            return full, {path: doc.value for path, doc in image.documents.items()}
        raise Invalid("snapshot.restore: give either a snapshot (its name) or an index (a whole number)")

    async def image_at(self, index: int) -> Image:
        """Return the state after the command with this index. NotFound if the index is in the future or truncated."""
        now = self._replica.state.index
        if not 0 < index <= now:
            raise NotFound(f"there is no index {index}: the journal is at {now}")
        state = await self._base_state(index)
        if state.index < index:
            await self._replay(state, index)
        if state.index != index:
            raise NotFound(f"the state at index {index} is no longer kept: the journal before it was truncated")
        return Image.of(state)

    async def _replay(self, state: State, index: int) -> None:
        """Apply the entries up to `index`."""
        time_slice = TimeSlice()  # a replay may be long: commits may wait for it, heartbeats must not
        entries = read_entries(self._replica.etcd, self._replica.keys, state.index + 1, index, _PAGE_ENTRIES)
        async with aclosing(entries):
            async for _, entry in entries:
                if isinstance(entry, Garbage):
                    continue  # if it is needed, apply() finds the gap before the next entry, and raises
                part = tuple(command for command in entry.commands if state.index < command.index <= index)
                if not part:
                    return  # the entry that holds `index` was truncated
                names = {command.restore for command in part if command.restore is not None}
                images = {name: await self._snapshots.read_documents(name) for name in names}
                try:
                    state.apply(with_commands(entry, part), images)
                except Garbage:
                    return
                await time_slice.yield_if_used_up()

    async def _base_state(self, index: int) -> State:
        """Return the newest snapshot at or before `index`, or the empty state if there is none."""
        for full, manifest in (await self._snapshots.manifests()).items():
            if manifest.index <= index:
                return (await self._snapshots.read(full, manifest)).to_state()
        return State()
