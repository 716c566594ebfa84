"""The replicated state: documents, ids, generations and the adopted configuration. Pure; changed by entries alone."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field

from nodestore.errors import Garbage
from nodestore.schema.models import Action, CommandRecord, ConfigRecord, Entry, Inventory, SpecMark
from nodestore.support.jsonio import Document, Json

IDS_MIN = 10_000
IDS_WINDOW_S = 3_600.0
IDS_MAX = 200_000
"""Results remembered: those of the last hour and the last 10,000 commands, never more than 200,000."""


@dataclass(frozen=True, slots=True)
class VersionedDocument:
    """A document and the index of the command that last changed it. The value is never changed in place."""

    index: int
    value: Document


@dataclass(frozen=True, slots=True)
class RememberedResult:
    """What a command with some id came to."""

    index: int
    time: float
    result: Json


@dataclass(frozen=True, slots=True)
class AdoptedConfig:
    """The configuration in force: the record, config/current's mod_revision, and the index that adopted it."""

    record: ConfigRecord
    revision: int
    index: int
    inventory: Inventory


@dataclass(slots=True)
class State:
    """Everything a leader needs to know, as of `index`."""

    index: int = 0
    time: float = 0.0
    documents: dict[str, VersionedDocument] = field(default_factory=dict)
    specs: dict[str, SpecMark] = field(default_factory=dict)
    adopted: AdoptedConfig | None = None
    ids: dict[str, RememberedResult] = field(default_factory=dict)
    floor: int = 0
    """Every id of a command after this index is in `ids`; a command whose `after` is lower is too old to know."""
    restores: dict[int, str] = field(default_factory=dict)
    """Snapshots that entries name, by the entries' index: these must outlive the entries."""
    actions: dict[str, tuple[Action, ...]] = field(default_factory=dict)
    """What nodes are still to do once, oldest first. No empty ones."""
    _paths: int = 0
    """Grows after each change of which documents there are."""
    _sorted: tuple[int, list[str]] = (-1, [])
    """All paths, as of which `_paths`. A thread that runs a batch and was given up may still fill it in: with what it
    read it names the count from before it read, so that an outdated listing is never taken for a new one."""

    @property
    def inventory(self) -> Inventory:
        return self.adopted.inventory if self.adopted else Inventory()

    def paths(self, prefix: str) -> list[str]:
        """Paths that begin with `prefix`, sorted."""
        count, every = self._sorted
        if count != self._paths:
            count = self._paths
            every = sorted(self.documents)
            self._sorted = count, every
        start = bisect.bisect_left(every, prefix)
        found = []
        for path in every[start:]:
            if not path.startswith(prefix):
                break
            found.append(path)
        return found

    def apply(self, entry: Entry, images: Mapping[str, Mapping[str, Document]] | None = None) -> None:
        """Make the entry part of the state. `images` holds the documents of each snapshot that it restores.

        Garbage when it does not follow directly on this state: the caller must load a snapshot instead.
        """
        if entry.first != self.index + 1:
            raise Garbage(f"the journal has a gap: entry {entry.first} to {entry.last} does not follow {self.index}")
        for record in entry.commands:
            self._apply(record, images or {}, entry.epoch)
        self._forget_old_ids()

    def _apply(self, record: CommandRecord, images: Mapping[str, Mapping[str, Document]], epoch: int) -> None:
        if record.restore is not None:
            self._replace_documents(images[record.restore], record.index)
            self.restores[record.index] = record.restore
        for path, document in record.writes.items():
            self._write(path, document, record.index)
        for node, mark in record.specs.items():
            if mark is None:
                self.specs.pop(node, None)
            else:
                self.specs[node] = mark
        if record.actions or record.closes:
            self._set_pending(pending_after(record, epoch, self.actions))
        if record.config is not None:
            inventory = Inventory.without_name_check(record.config.inventory)
            self.adopted = AdoptedConfig(record.config, record.config_revision or 0, record.index, inventory)
        self.ids.pop(record.id, None)  # the oldest comes first, even when an id that was forgotten comes again
        self.ids[record.id] = RememberedResult(record.index, record.time, record.result)
        self.index = record.index
        self.time = max(self.time, record.time)

    def _set_pending(self, changed: Mapping[str, tuple[Action, ...]]) -> None:
        for node, pending in changed.items():
            if pending:
                self.actions[node] = pending
            else:
                self.actions.pop(node, None)

    def _write(self, path: str, document: Document | None, index: int) -> None:
        if document is None:
            if self.documents.pop(path, None) is not None:
                self._paths += 1
            return
        new = path not in self.documents
        self.documents[path] = VersionedDocument(index, document)
        if new:
            self._paths += 1

    def _replace_documents(self, image: Mapping[str, Document], index: int) -> None:
        for path in [path for path in self.documents if path not in image]:
            self._write(path, None, index)
        for path, document in image.items():
            before = self.documents.get(path)
            if before is None or before.value != document:
                self._write(path, document, index)

    def _forget_old_ids(self) -> None:
        """Drop ids that need not be known any more. By the entries' own times, so that no clock here matters."""
        while len(self.ids) > IDS_MIN:
            oldest = next(iter(self.ids))
            remembered = self.ids[oldest]
            if remembered.time > self.time - IDS_WINDOW_S and len(self.ids) <= IDS_MAX:
                return
            del self.ids[oldest]
            self.floor = max(self.floor, remembered.index)


def pending_after(
    record: CommandRecord, epoch: int, before: Mapping[str, tuple[Action, ...]]
) -> dict[str, tuple[Action, ...]]:
    """What the nodes that this command concerns are still to do after it."""
    after: dict[str, tuple[Action, ...]] = {}
    for node, closed in record.closes.items():
        after[node] = tuple(action for action in before.get(node, ()) if action.index not in closed)
    for node, asked in record.actions.items():
        action = Action(**dict(asked), index=record.index, epoch=epoch, actor=record.actor, time=record.time)
        after[node] = (*after.get(node, before.get(node, ())), action)
    return after
