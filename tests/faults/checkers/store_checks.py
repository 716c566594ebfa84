"""What must be true of a store afterwards, whatever was done to it: each check returns what it found wrong.

Read from etcd itself, not through a master: a master that is wrong must not be the judge of itself.
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
    """Everything under the prefix that the checks need, as of one revision. The journal must be whole, from index 1."""

    journal: tuple[tuple[KV, Entry], ...]
    terms: tuple[tuple[int, TermRecord], ...]
    """Revision of each term, oldest first."""
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
    """Indexes go up by one from 1 to head; no entry was ever written twice."""
    indexes = [command.index for command in store.commands]
    wrong = [] if indexes == list(range(1, len(indexes) + 1)) else ["the journal's indexes are not 1, 2, 3, ..."]
    if store.head.index != len(indexes):
        wrong.append(f"head is at {store.head.index}, the journal ends at {len(indexes)}")
    rewritten = [kv.key for kv, _ in store.journal if kv.create_revision != kv.mod_revision]
    return wrong + [f"{key} was written twice" for key in rewritten]


def terms_that_do_not_grow(store: Store) -> list[str]:
    """In the journal's order, terms never go back."""
    terms = [Term(entry.epoch, entry.term) for _, entry in store.journal]
    return [f"term {later} after {earlier}" for earlier, later in itertools.pairwise(terms) if later < earlier]


def writes_of_deposed_leaders(store: Store) -> list[str]:
    """The term that an entry names is the one that was in force at the revision that wrote it."""
    wrong, terms = [], [0, *(revision for revision, _ in store.terms)]
    for kv, entry in store.journal:
        in_force = terms[bisect_left(terms, kv.mod_revision) - 1]
        if entry.term != in_force:
            wrong.append(f"{kv.key} was written by term {entry.term} while {in_force} was in force")
    return wrong


def lost_or_doubled(store: Store, acknowledged: Mapping[str, int]) -> list[str]:
    """Each acknowledged id is in the journal once, at the index that was acknowledged; no id at all is in it twice."""
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
    """The state that the journal makes: documents with their indexes, and the nodes' marks."""
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
    """`state/` and `desired/` are the fold of the journal, and `applied` says so."""
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
    """What nodes should be, and say that they are."""

    @property
    def desired(self) -> Mapping[str, Desired]: ...

    @property
    def status(self) -> Mapping[str, Status]: ...


def nodes_behind(store: Nodes) -> list[str]:
    """Every node that must be something says that it is, at its desired generation."""
    wrong = []
    for node, desired in store.desired.items():
        status = store.status.get(node)
        if status is None or status.observed_generation != desired.generation or status.phase != "ready":
            wrong.append(f"{node} should be at {desired.generation}, says {status and status.model_dump()}")
    return wrong


def safety(store: Store, acknowledged: Mapping[str, int]) -> list[str]:
    """Everything that must hold at every moment."""
    return [
        *gaps_and_forks(store),
        *terms_that_do_not_grow(store),
        *writes_of_deposed_leaders(store),
        *lost_or_doubled(store, acknowledged),
    ]
