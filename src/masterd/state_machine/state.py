"""The replicated state: documents, command ids, generations, adopted configuration. Pure; only entries change it."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct
from pydantic import ValidationError

from masterd.state_machine.remembered import RememberedResult
from nodestore.errors import Garbage
from nodestore.schema.models import Action, ConfigRecord, Inventory, first_problem
from nodestore.schema.records import JournalEntry, JournalRecord, MarkStruct
from nodestore.support.jsonio import Document, encoded_plain

IDS_MIN = 10_000
IDS_WINDOW_S = 3_600.0
IDS_MAX = 200_000
"""Results are remembered for one hour and for the last 10,000 commands, but never more than 200,000. The leader's limit
in bytes takes precedence over all three."""
_GAPS_MAX = 2_048
"""So many results are forgotten before the table of them is made anew, which takes a few milliseconds."""
_DOCUMENT_FRAMING_BYTES = 64
"""Upper bound of what a snapshot or a view adds to the path and the value of a document."""


class VersionedDocument(Struct, frozen=True, gc=False):
    """A document and the index of the command that last changed it. The value is never changed in place.

    size: its bytes in a snapshot or in a view, at most; see `document_size`.
    """

    index: int
    value: Document
    size: int = 0


@dataclass(frozen=True, slots=True)
class AdoptedConfig:
    """The configuration in force: the record, config/current's mod_revision, and the index that adopted it."""

    record: ConfigRecord
    revision: int
    index: int
    inventory: Inventory


@dataclass(slots=True)
class State:
    """The state after the command with index `index`."""

    index: int = 0
    time: float = 0.0
    documents: dict[str, VersionedDocument] = field(default_factory=dict)
    specs: dict[str, MarkStruct] = field(default_factory=dict)
    adopted: AdoptedConfig | None = None
    ids: dict[str, RememberedResult] = field(default_factory=dict)
    ids_bytes: int = 0
    """Sum of the sizes of all remembered results."""
    documents_bytes: int = 0
    """Sum of the sizes of all documents."""
    floor: int = 0
    """The ids of all commands after this index are in `ids`. A command with a lower `after` is refused as too old."""
    restores: dict[int, str] = field(default_factory=dict)
    """Names of the snapshots that commands restore, by the commands' index. A snapshot must be kept as long as the
    entry of such a command, because the entry holds only the snapshot's name."""
    actions: dict[str, tuple[Action, ...]] = field(default_factory=dict)
    """Pending actions by node, oldest first. Nodes without any are absent."""
    application: str | None = None
    """Name of the application that led when the last entry was committed; None in journals of older releases."""
    _gaps: int = field(default=0, compare=False)
    """How many results were forgotten since `ids` was made. Where an item was deleted, a dict keeps a gap until it
    grows, and each search for its oldest item passes over all gaps before it. With tens of thousands of them, one
    search for each command took four fifths of a standby's CPU time."""
    _paths: int = 0
    """Version of the set of paths: grows after each document that is added or removed."""
    _sorted: tuple[int, list[str]] = (-1, [])
    """Cache of all paths, sorted, with the `_paths` that it was computed for."""

    @property
    def inventory(self) -> Inventory:
        return self.adopted.inventory if self.adopted else Inventory()

    def for_derivation(self) -> State:
        """A copy of the part from which specs are derived. It stays as it is while entries are applied to this state,
        because documents are never changed in place."""
        return State(
            index=self.index, time=self.time, documents=dict(self.documents), specs=dict(self.specs),
            adopted=self.adopted,
        )  # fmt: skip

    def spec_hash(self, node: str) -> str:
        """The recorded hash of this node's spec; empty if the node has none."""
        mark = self.specs.get(node)
        return mark.hash if mark else ""

    def paths(self, prefix: str) -> list[str]:
        """Paths that begin with `prefix`, sorted."""
        version, all_paths = self._sorted
        if version != self._paths:
            # The version is read before the documents: an abandoned worker thread may still run this concurrently, and
            # must not store an outdated listing under a newer version.
            version = self._paths
            all_paths = sorted(self.documents)
            self._sorted = version, all_paths
        start = bisect.bisect_left(all_paths, prefix)
        matching = []
        for path in all_paths[start:]:
            if not path.startswith(prefix):
                break
            matching.append(path)
        return matching

    def apply(self, entry: JournalEntry, images: Mapping[str, Mapping[str, Document]] | None = None) -> None:
        """Apply an entry. images: the documents of each snapshot that the entry restores, by name.

        JournalGap if the entry does not directly follow this state: the caller then loads a snapshot. Garbage if the
        entry cannot be applied. After an error the state is unchanged.
        """
        if entry.first != self.index + 1:
            raise JournalGap(f"the journal has a gap: entry {entry.first} to {entry.last} does not follow {self.index}")
        # Everything that can fail is done first, because a state that holds half of an entry would be wrong for ever.
        prepared = prepare_entry(entry, images or {}, self.actions)
        for record in entry.commands:
            self._apply(record, prepared.get(record.index, _NOTHING_PREPARED))
        if entry.application is not None:
            self.application = entry.application
        # The leader decides what is forgotten, so that replicas of different versions and settings agree. Only for an
        # entry of a version that wrote no floor, each replica decides by the rule of that version.
        self._forget(self._floor_by_age(len(self.ids)) if entry.floor is None else entry.floor)

    def _apply(self, record: JournalRecord, prepared: PreparedRecord) -> None:
        if record.restore is not None:
            self._replace_documents(prepared.image, record.index)
            self.restores[record.index] = record.restore
        for path, document in record.writes.items():
            self._write(path, document, record.index)
        for node, mark in record.specs.items():
            if mark is None:
                self.specs.pop(node, None)
            else:
                self.specs[node] = MarkStruct.of(mark)
        self._set_pending(prepared.pending)
        if record.config is not None:
            self.adopted = AdoptedConfig(
                record.config, record.config_revision or 0, record.index, prepared.inventory or Inventory()
            )
        # The commands of one batch have the same time: one object serves all that is remembered of them.
        time = self.time if record.time == self.time else record.time
        self.remember(record.id, RememberedResult.of(record, time))
        self.index = record.index
        self.time = max(self.time, time) if record.time_shift is None else time

    def _set_pending(self, changed: Mapping[str, tuple[Action, ...]]) -> None:
        for node, pending in changed.items():
            if pending:
                self.actions[node] = pending
            else:
                self.actions.pop(node, None)

    def _write(self, path: str, document: Document | None, index: int) -> None:
        before = self.documents.pop(path, None) if document is None else self.documents.get(path)
        if document is not None:
            self.documents[path] = VersionedDocument(index, document, document_size(path, document))
            self.documents_bytes += self.documents[path].size
        if before is not None:
            self.documents_bytes -= before.size
        if (before is None) != (document is None):
            self._paths += 1

    def _replace_documents(self, image: Mapping[str, Document], index: int) -> None:
        for path in [path for path in self.documents if path not in image]:
            self._write(path, None, index)
        for path, document in image.items():
            before = self.documents.get(path)
            if before is None or before.value != document:
                self._write(path, document, index)

    # --- remembered results ---

    def remember(self, command_id: str, remembered: RememberedResult) -> None:
        """Remember a result as the newest one: `ids` is in order of index, oldest first."""
        before = self.ids.pop(command_id, None)
        self.ids[command_id] = remembered
        self.ids_bytes += remembered.size_under(command_id) - (0 if before is None else before.size_under(command_id))

    def floor_within(self, ids_bytes_max: int) -> int:
        """The floor for the leader's next entry: forgets what is too old, then the oldest above this many bytes.

        It is at most the index of this state, so the commands of that entry itself are always remembered. They may
        exceed the limit until the entry after it.
        """
        floor, size = self._floor_by_age(len(self.ids)), self.ids_bytes
        for command_id, remembered in self.ids.items():
            if remembered.index > floor and size <= ids_bytes_max:
                break
            size -= remembered.size_under(command_id)
            floor = max(floor, remembered.index)
        return floor

    def _floor_by_age(self, count: int) -> int:
        """The floor by age and number. Only times from the entries count, not the clock, so that every replica that
        replays an entry of an old version forgets the same ids."""
        floor = self.floor
        for remembered in self.ids.values():
            if count <= IDS_MIN or (remembered.time > self.time - IDS_WINDOW_S and count <= IDS_MAX):
                break
            count -= 1
            floor = max(floor, remembered.index)
        return floor

    def _forget(self, floor: int) -> None:
        """Forget the ids of all commands up to `floor`."""
        self.floor = max(self.floor, floor)
        forgotten = []
        for command_id, remembered in self.ids.items():
            if remembered.index > self.floor:
                break
            forgotten.append(command_id)
        for command_id in forgotten:
            self.ids_bytes -= self.ids.pop(command_id).size_under(command_id)
        self._gaps += len(forgotten)
        if self._gaps > _GAPS_MAX:
            self.ids, self._gaps = dict(self.ids), 0


def document_size(path: str, document: Document) -> int:
    """Upper bound of the bytes that a document takes in a snapshot or in a view, its path included."""
    return len(encoded_plain((path, document))) + _DOCUMENT_FRAMING_BYTES


class JournalGap(Garbage):
    """An entry does not directly follow the state."""


@dataclass(frozen=True, slots=True)
class PreparedRecord:
    """What applying a record needs beyond the record: computed first, because computing it can fail."""

    pending: Mapping[str, tuple[Action, ...]] = field(default_factory=dict)
    """The pending actions after the record, of the nodes whose actions it changes."""
    inventory: Inventory | None = None
    """The inventory that the record adopts."""
    image: Mapping[str, Document] = field(default_factory=dict)
    """The documents that the record restores."""


_NOTHING_PREPARED = PreparedRecord()


def prepare_entry(
    entry: JournalEntry, images: Mapping[str, Mapping[str, Document]], actions: Mapping[str, tuple[Action, ...]]
) -> dict[int, PreparedRecord]:
    """What applying each record needs, by index; most records need nothing. Garbage if a record cannot be applied.

    actions: the pending actions before the entry.
    """
    prepared: dict[int, PreparedRecord] = {}
    records = [record for record in entry.commands if needs_preparation(record)]
    pending = dict(actions) if records else {}
    for record in records:
        prepared[record.index] = item = prepare_record(record, images, entry.epoch, pending)
        pending.update(item.pending)
    return prepared


def needs_preparation(record: JournalRecord) -> bool:
    """Whether a part of this record must be computed before it can be applied. False for nearly all records."""
    return bool(
        record.actions
        or record.closes
        or record.config is not None
        or record.restore is not None
        or record.time_shift is not None
    )


def prepare_record(
    record: JournalRecord,
    images: Mapping[str, Mapping[str, Document]],
    epoch: int,
    before: Mapping[str, tuple[Action, ...]],
) -> PreparedRecord:
    """What applying this record needs. Garbage if it cannot be applied. before: the pending actions before it."""
    try:
        return PreparedRecord(
            pending=pending_after(record, epoch, before),
            inventory=None if record.config is None else Inventory.without_name_check(record.config.inventory),
            image={} if record.restore is None else images[record.restore],
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the entry cannot be applied
        why = first_problem(error) if isinstance(error, ValidationError) else repr(error)
        raise Garbage(f"index {record.index}, command {record.name}: {why}") from None


def pending_after(
    record: JournalRecord, epoch: int, before: Mapping[str, tuple[Action, ...]]
) -> dict[str, tuple[Action, ...]]:
    """The pending actions after this command, of the nodes whose actions it changes."""
    after: dict[str, tuple[Action, ...]] = {}
    if record.time_shift is not None:
        for node, pending in before.items():
            after[node] = tuple(_shifted(action, record.time_shift) for action in pending)
    for node, closed in record.closes.items():
        after[node] = tuple(action for action in before.get(node, ()) if action.index not in closed)
    for node, request in record.actions.items():
        action = Action(**dict(request), index=record.index, epoch=epoch, actor=record.actor, time=record.time)
        after[node] = (*after.get(node, before.get(node, ())), action)
    return after


def _shifted(action: Action, seconds: float) -> Action:
    return action.model_copy(update={"expires": action.expires + seconds})
