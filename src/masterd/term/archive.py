"""Snapshots as people use them: saved by name, listed, shown, deleted; and the image of any retained index.

An image is a snapshot and the entries after it. The journal's entries hold the documents that were written, so the
image of any index can be made as long as a snapshot before it and the entries up to it are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from masterd.replication.journal_reader import read_entries
from masterd.replication.snapshots import Image
from masterd.state_machine.state import State
from masterd.term.retention import JournalRetention
from nodestore.cluster.election import Fence
from nodestore.errors import Conflict, Garbage, Invalid, NotFound
from nodestore.schema.keys import check_name
from nodestore.schema.models import Entry, Manifest
from nodestore.support.jsonio import Document
from nodestore.support.time_slices import TimeSlice

_PAGE_ENTRIES = 32


class SnapshotArchive:
    """The leader's, for one term."""

    def __init__(self, fence: Fence, retention: JournalRetention) -> None:
        self._fence, self._retention = fence, retention
        self._replica = retention.replica
        self._snapshots = retention.replica.snapshots

    async def save(self, name: str) -> Manifest:
        """Write the state as it is now under a name; kept until deleted. Conflict when the name is taken."""
        check_name("snapshot", name)
        if await self._snapshots.lookup(name) is not None:
            raise Conflict(f"there is a snapshot {name!r} already: delete it first, or choose another name")
        written = await self._retention.write_snapshot(name)
        return (await self._snapshots.manifests())[written]

    async def delete(self, name: str) -> None:
        """Conflict when a retained entry of the journal restores it: replicas would need it."""
        full, manifest = await self._snapshots.find(name)
        if manifest.name is None:
            raise Conflict(f"{full} is one of the automatic snapshots, which are deleted by themselves")
        if not await self._snapshots.delete(self._fence, full, self._retention.is_needed):
            naming = [index for index, used in self._replica.state.restores.items() if used == full]
            by = f"the command at index {naming[0]} restored" if naming else "a command is just restoring"
            raise Conflict(f"{by} snapshot {name!r}: it is kept as long as that is")

    async def documents(self, name: str) -> dict[str, Document]:
        full, _ = await self._snapshots.find(name)
        return await self._snapshots.read_documents(full)

    async def prepare_restore(self, args: Mapping[str, Any]) -> tuple[str, dict[str, Document]]:
        """The full name and documents of what is to be restored: `snapshot` by name, or `index`, whose image is first
        written as a snapshot. It is pinned until the caller has committed, or given up."""
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
        """The state as it was after the command with this index. NotFound when that is no longer, or not yet, kept."""
        now = self._replica.state.index
        if not 0 < index <= now:
            raise NotFound(f"there is no index {index}: the journal is at {now}")
        state = await self._base_state(index)
        if state.index < index:
            await self._replay(state, index)
        if state.index != index:
            raise NotFound(f"the state of index {index} is no longer kept: the journal before it was truncated")
        return Image.of(state)

    async def _replay(self, state: State, index: int) -> None:
        """Apply the entries up to `index`, in turns: others commit nothing meanwhile, but the leader must be heard."""
        turns = TimeSlice()
        entries = read_entries(self._replica.etcd, self._replica.keys, state.index + 1, index, _PAGE_ENTRIES)
        async with aclosing(entries):
            async for _, entry in entries:
                if isinstance(entry, Garbage):
                    continue  # where it is missing, the next one does not follow
                part = tuple(command for command in entry.commands if state.index < command.index <= index)
                if not part:
                    return  # the index is in what was truncated before this entry
                names = {command.restore for command in part if command.restore is not None}
                images = {name: await self._snapshots.read_documents(name) for name in names}
                try:
                    state.apply(Entry.model_construct(**{**dict(entry), "commands": part}), images)
                except Garbage:
                    return
                await turns.yield_if_used_up()

    async def _base_state(self, index: int) -> State:
        """The newest snapshot at or before `index`; the empty state when there is none."""
        for full, manifest in (await self._snapshots.manifests()).items():
            if manifest.index <= index:
                return (await self._snapshots.read(full, manifest)).to_state()
        return State()
