"""Invariants of a store after any faults; each check returns its findings.

The store is read from etcd and not through a master, as the master may be wrong.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nodestore.etcd.session import KV, Etcd
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import (
    Applied,
    CommandRecord,
    Desired,
    Entry,
    Head,
    SpecMark,
    Status,
    Term,
    TermRecord,
    decode,
)
from nodestore.support.jsonio import Document, digest, loads


@dataclass(frozen=True)
class Store:
    """The keys that the checks need, as of one revision. The journal must be complete from index 1."""

    journal: tuple[tuple[KV, Entry], ...]
    terms: tuple[tuple[int, TermRecord], ...]
    """The terms with their revisions, oldest first."""
    head: Head
    applied: Applied
    state: Mapping[str, Document]
    desired: Mapping[str, Desired]
    status: Mapping[str, Status]

    @property
    def commands(self) -> list[CommandRecord]:
        return [command for _, entry in self.journal for command in entry.commands]


async def read_store(etcd: Etcd, keys: Keys) -> Store:
    listing = await list_at(etcd, keys.prefix, end=prefix_end(keys.prefix), page=500)

    def under(prefix: str) -> list[KV]:
        return [kv for kv in listing.kvs if kv.key.startswith(prefix)]

    def one(key: str) -> KV:
        return next(kv for kv in listing.kvs if kv.key == key)

    terms = [(kv.create_revision, decode(TermRecord, kv.value, kv.key)) for kv in under(keys.terms)]
    return Store(
        journal=tuple((kv, decode(Entry, kv.value, kv.key)) for kv in under(keys.journal)),
        terms=tuple(sorted(terms, key=lambda item: item[0])),
        head=decode(Head, one(keys.head).value, keys.head),
        applied=decode(Applied, one(keys.applied).value, keys.applied),
        state={kv.key.removeprefix(keys.state): loads(kv.value) for kv in under(keys.state)},
        desired={kv.key.removeprefix(keys.desired): decode(Desired, kv.value, kv.key) for kv in under(keys.desired)},
        status={kv.key.removeprefix(keys.status): decode(Status, kv.value, kv.key) for kv in under(keys.status)},
    )


def gaps_and_forks(store: Store) -> list[str]:
    """Indexes grow by one from 1 to head, and no entry was written twice."""
    indexes = [command.index for command in store.commands]
    wrong = [] if indexes == list(range(1, len(indexes) + 1)) else ["the journal's indexes are not 1, 2, 3, ..."]
    if store.head.index != len(indexes):
        wrong.append(f"head is at {store.head.index}, the journal ends at {len(indexes)}")
    rewritten = [kv.key for kv, _ in store.journal if kv.create_revision != kv.mod_revision]
    return wrong + [f"{key} was written twice" for key in rewritten]


def terms_that_do_not_grow(store: Store) -> list[str]:
    """Terms never decrease in the journal."""
    terms = [Term(entry.epoch, entry.term) for _, entry in store.journal]
    return [f"term {later} after {earlier}" for earlier, later in itertools.pairwise(terms) if later < earlier]


def writes_of_deposed_leaders(store: Store) -> list[str]:
    """Each entry names the term in force at the revision that wrote it."""
    wrong, terms = [], [0, *(revision for revision, _ in store.terms)]
    for kv, entry in store.journal:
        in_force = terms[bisect_left(terms, kv.mod_revision) - 1]
        if entry.term != in_force:
            wrong.append(f"{kv.key} was written by term {entry.term} while {in_force} was in force")
    return wrong


def lost_or_doubled(store: Store, acknowledged: Mapping[str, int]) -> list[str]:
    """Each acknowledged id is in the journal at its acknowledged index, and no id is in it twice."""
    times = Counter(command.id for command in store.commands)
    at = {command.id: command.index for command in store.commands}
    wrong = [f"command {known} was acknowledged and is lost" for known in acknowledged if known not in times]
    wrong += [f"command {known} took effect {count} times" for known, count in times.items() if count > 1]
    wrong += [
        f"command {known} was acknowledged as index {index}, the journal has it as {at[known]}"
        for known, index in acknowledged.items()
        if known in at and at[known] != index
    ]
    return wrong


def fold(store: Store) -> tuple[dict[str, tuple[int, Document]], dict[str, SpecMark]]:
    """The state after the journal: documents with their indexes, and the marks of the nodes' specs."""
    documents: dict[str, tuple[int, Document]] = {}
    specs: dict[str, SpecMark] = {}
    for command in store.commands:
        for path, document in command.writes.items():
            if document is None:
                documents.pop(path, None)
            else:
                documents[path] = (command.index, document)
        for node, mark in command.specs.items():
            if mark is None:
                specs.pop(node, None)
            else:
                specs[node] = mark
    return documents, specs


def views_that_differ(store: Store) -> list[str]:
    """`state/` and `desired/` are the state after the journal, and `applied` has its index."""
    documents, specs = fold(store)
    views = {path: (view["index"], view["document"]) for path, view in store.state.items()}
    wrong = [
        f"state/{path} differs" for path in views.keys() | documents.keys() if views.get(path) != documents.get(path)
    ]
    desired = {
        node: (view.generation, digest(view.spec.model_dump(mode="json"))) for node, view in store.desired.items()
    }
    marks = {node: (mark.generation, mark.hash) for node, mark in specs.items()}
    wrong += [
        f"desired/{node} differs" for node in desired.keys() | marks.keys() if desired.get(node) != marks.get(node)
    ]
    if store.applied.through is not None or store.applied.index != store.head.index:
        wrong.append(f"applied is {store.applied.model_dump()}, head is at {store.head.index}")
    return wrong


class Nodes(Protocol):
    """The desired state and the status of all nodes."""

    @property
    def desired(self) -> Mapping[str, Desired]: ...

    @property
    def status(self) -> Mapping[str, Status]: ...


def nodes_behind(store: Nodes) -> list[str]:
    """Every node with a desired state is ready at its generation."""
    wrong = []
    for node, desired in store.desired.items():
        status = store.status.get(node)
        if status is None or status.observed_generation != desired.generation or status.phase != "ready":
            wrong.append(f"{node} should be at {desired.generation}, says {status and status.model_dump()}")
    return wrong


def safety(store: Store, acknowledged: Mapping[str, int]) -> list[str]:
    """All invariants that must hold at any time."""
    return [
        *gaps_and_forks(store),
        *terms_that_do_not_grow(store),
        *writes_of_deposed_leaders(store),
        *lost_or_doubled(store, acknowledged),
    ]
