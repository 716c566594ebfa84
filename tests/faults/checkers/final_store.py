"""Compares the final contents of the store with the recorded history.

The state is computed again from the store's own contents: from each of the two newest snapshots and the journal after
it. That shows a truncation that went too far, which the recorded history cannot show.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from nodestore.etcd.session import Etcd
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Applied, Desired, Head, Manifest, Status, decode
from nodestore.support.jsonio import digest, loads
from tests.faults.checkers.fold import Fold, read_entry
from tests.faults.checkers.watched import MANIFEST

_SNAPSHOTS = 2


@dataclass
class FinalStore:
    """The final contents. journal: the entries by last index. snapshots: the chunks and "manifest" by name."""

    head: Head | None = None
    applied: Applied | None = None
    views: Fold = field(default_factory=Fold)
    desired: dict[str, Desired] = field(default_factory=dict)
    status: dict[str, Status] = field(default_factory=dict)
    journal: dict[int, str] = field(default_factory=dict)
    snapshots: defaultdict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))

    def put(self, key: str, value: bytes) -> None:
        """Add a key, which is without the cluster's prefix."""
        kind, _, name = key.partition("/")
        match kind:
            case "head":
                self.head = decode(Head, value, key)
            case "applied":
                self.applied = decode(Applied, value, key)
            case "state":
                view = loads(value)
                self.views.documents[name] = (view["index"], digest(view["document"]))
            case "desired":
                self.desired[name] = decode(Desired, value, key)
                self.views.specs[name] = (self.desired[name].generation, digest(loads(value)["spec"]))
            case "status":
                self.status[name] = decode(Status, value, key)
            case "journal":
                self.journal[int(name)] = value.decode()
            case "snapshots":
                snapshot, _, part = name.partition("/")
                self.snapshots[snapshot][part] = value


def final_of(keys: Keys, found: Iterable[tuple[str, bytes]]) -> FinalStore:
    """The final store from full keys and their values."""
    final = FinalStore()
    for key, value in found:
        final.put(key.removeprefix(keys.prefix), value)
    return final


async def save_final(etcd: Etcd, keys: Keys, path: Path) -> None:
    """Write all keys under the prefix, as of one revision, to a file, one a line."""
    listing = await list_at(etcd, keys.prefix, end=prefix_end(keys.prefix), page=500)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line(kv.key.removeprefix(keys.prefix), kv.value) for kv in listing.kvs)


def line(key: str, value: bytes) -> str:
    """One line of the file. key: without the cluster's prefix. Values are JSON, so they are text."""
    return json.dumps({"key": key, "value": value.decode()}) + "\n"


def load_final(path: Path) -> FinalStore:
    """Read a file of `save_final`."""
    final = FinalStore()
    with path.open(encoding="utf-8") as file:
        for text in file:
            item = json.loads(text)
            final.put(item["key"], item["value"].encode())
    return final


def truncated_too_far(final: FinalStore, recorded: Fold) -> list[str]:
    """The two newest snapshots, each with the journal after it, yield the recorded state.

    If there are fewer than two snapshots, the journal must yield it from the beginning.
    """
    complete = sorted((name for name, parts in final.snapshots.items() if "manifest" in parts), reverse=True)
    wrong: list[str] = []
    for name in complete[:_SNAPSHOTS]:
        parts = final.snapshots[name]
        manifest = decode(Manifest, parts["manifest"], name + MANIFEST)
        chunks = [parts[part] for part in sorted(parts) if part != "manifest"]
        if len(chunks) != manifest.chunks or sha256(b"".join(chunks)).hexdigest() != manifest.sha256:
            wrong.append(f"snapshot {name} is damaged")
            continue
        wrong += _from(final, manifest.index, _image(chunks), recorded, f"snapshot {name} with the journal after it")
    if len(complete) < _SNAPSHOTS:
        wrong += _from(final, 0, Fold(), recorded, "the journal in the store")
    return wrong


def _image(chunks: Iterable[bytes]) -> Fold:
    fold = Fold()
    for chunk in chunks:
        part = loads(chunk)
        if part["part"] == "documents":
            fold.documents.update((path, (index, digest(value))) for path, (index, value) in part["items"].items())
        elif part["part"] == "specs":
            fold.specs.update((node, (generation, known)) for node, (generation, known) in part["items"].items())
    return fold


def _from(final: FinalStore, index: int, fold: Fold, recorded: Fold, what: str) -> list[str]:
    head = final.head.index if final.head else 0
    for command in _commands(final, index):
        if command["index"] != index + 1:
            return [f"{what} lacks index {index + 1}"]
        index = command["index"]
        fold.take(command)
    if index != head:
        return [f"{what} ends at index {index}, head is at {head}"]
    return recorded.differences(fold, what)


def _commands(final: FinalStore, beyond: int) -> Iterator[dict[str, Any]]:
    for last in sorted(last for last in final.journal if last > beyond):
        entry = read_entry(final.journal[last]) or {"commands": ()}
        yield from (command for command in entry["commands"] if command["index"] > beyond)


def views_that_differ(final: FinalStore, recorded: Fold, last: int) -> list[str]:
    """`state/` and `desired/` have the hashes of the recorded journal, and `applied` has its index."""
    wrong = recorded.differences(final.views, "the view")
    applied = final.applied
    if applied is None:
        return [*wrong, "applied is missing"] if last else wrong
    if (applied.index, applied.base, applied.through) != (last, last, None):
        wrong.append(f"applied is {applied.model_dump()}, the journal ends at {last}")
    return wrong
