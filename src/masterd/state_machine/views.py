"""The views of the state in etcd: `state/<path>`, `desired/<node>` and `actions/<node>`. Pure.

No decision of masterd depends on a view: replicas read only the journal and snapshots. Views are read by noded, by
automation and by people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from masterd.state_machine.specs import DerivedSpec, SpecDeriver
from masterd.state_machine.state import State
from nodestore.errors import Garbage
from nodestore.schema.keys import Keys
from nodestore.schema.limits import ACTOR_BYTES_MAX, shortened
from nodestore.schema.models import SCHEMA_VERSION, Action, Actions, Desired, SpecMark, Term, decode
from nodestore.schema.records import JournalRecord, MarkStruct
from nodestore.support.jsonio import Document, dumps

ViewChanges = dict[str, bytes | None]
"""Keys with their new values; None deletes."""


@dataclass(frozen=True, slots=True)
class TxnBudget:
    """How much of one transaction views may use: etcd's limits, minus the rest of the transaction."""

    ops: int
    size_bytes: int


def document_view(index: int, document: Document) -> bytes:
    return dumps({"v": 1, "index": index, "document": document})


def desired_view(
    term: Term, mark: SpecMark | MarkStruct, derived: DerivedSpec, secret_fields: tuple[str, ...] = ()
) -> bytes:
    """secret_fields: the marks of secret fields. Without any, the value is as releases without marks write it."""
    if derived.spec is None:
        raise ValueError("a node without a spec has no desired state")
    # The fields of `Desired`. The model would validate the spec again, which takes longer than all else here.
    return dumps({
        "v": SCHEMA_VERSION, "epoch": term.epoch, "term": term.revision, "generation": mark.generation,
        "spec": derived.spec, **({"secret_fields": secret_fields} if secret_fields else {}),
    })  # fmt: skip


def actions_view(term: Term, pending: tuple[Action, ...]) -> bytes:
    # An old entry may hold an actor of any length, and 16 of them would not fit into one transaction.
    shown = tuple(action.model_copy(update={"actor": shortened(action.actor, ACTOR_BYTES_MAX)}) for action in pending)
    view = Actions.model_construct(v=1, epoch=term.epoch, term=term.revision, pending=shown)
    return dumps(view.model_dump(mode="json"))


def changes_of(
    keys: Keys,
    term: Term,
    records: Iterable[JournalRecord],
    derived: Mapping[str, DerivedSpec],
    pending: Mapping[str, tuple[Action, ...]] = MappingProxyType({}),
    secret_fields: tuple[str, ...] = (),
) -> ViewChanges:
    """The changes that these records make to the views. If several records write one key, the last one counts.

    pending: the pending actions of the nodes whose actions changed.
    """
    documents: dict[str, tuple[int, Document | None]] = {}
    marks: dict[str, SpecMark | MarkStruct | None] = {}
    for record in records:
        documents.update((path, (record.index, document)) for path, document in record.writes.items())
        marks.update(record.specs)
    changes: ViewChanges = {}
    for path, (index, document) in documents.items():
        changes[keys.document(path)] = None if document is None else document_view(index, document)
    for node, mark in marks.items():
        changes[keys.desired_of(node)] = (
            None if mark is None else desired_view(term, mark, derived[node], secret_fields)
        )
    for node, actions in pending.items():
        changes[keys.actions_of(node)] = actions_view(term, actions) if actions else None
    return changes


def marked_again(keys: Keys, term: Term, state: State, derivation: SpecDeriver, changes: ViewChanges) -> ViewChanges:
    """The desired states that are not among `changes`, for other marks of secret fields. Their orders stay the same.

    state: before the entry that brings the other marks. Nodes whose recorded spec cannot be derived are left out.
    """
    found: ViewChanges = {}
    for node, mark in state.specs.items():
        key, derived = keys.desired_of(node), derivation[node]
        if key not in changes and derived.spec is not None and derived.hash == mark.hash:
            found[key] = desired_view(term, mark, derived, derivation.secret_fields)
    return found


def all_views(keys: Keys, term: Term, state: State, derivation: SpecDeriver) -> dict[str, bytes]:
    """All views of the state, without the desired states of nodes whose spec cannot be derived."""
    left_out = {keys.desired_of(node) for node in derivation.failed}
    views = {key: view_of(keys, term, state, derivation, key) for key in view_keys(keys, state) - left_out}
    return {key: value for key, value in views.items() if value is not None}


def kept_orders(
    keys: Keys, term: Term, state: State, derivation: SpecDeriver, found: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The present desired states of nodes whose spec cannot be derived. One of an earlier epoch is moved to this one.

    An unreadable one is left as it is: it cannot be derived again.
    """
    kept: dict[str, bytes] = {}
    for node in derivation.failed.keys() & state.specs.keys():
        key = keys.desired_of(node)
        if key in found:
            kept[key] = _in_epoch(term, found[key], key)
    return kept


def _in_epoch(term: Term, raw: bytes, key: str) -> bytes:
    try:
        order = decode(Desired, raw, key)
    except Garbage:
        return raw
    if order.epoch == term.epoch:
        return raw
    moved = order.model_copy(update={"epoch": term.epoch, "term": term.revision})
    return dumps(moved.model_dump(mode="json"))


def view_of(keys: Keys, term: Term, state: State, derivation: SpecDeriver, key: str) -> bytes | None:
    """The value that the view under `key` must have; None if the key must be absent."""
    if key.startswith(keys.desired):
        node = key.removeprefix(keys.desired)
        mark = state.specs.get(node)
        if mark is None or derivation[node].spec is None:
            return None
        return desired_view(term, mark, derivation[node], derivation.secret_fields)
    if key.startswith(keys.actions):
        pending = state.actions.get(key.removeprefix(keys.actions))
        return actions_view(term, pending) if pending else None
    doc = state.documents.get(key.removeprefix(keys.state))
    return None if doc is None else document_view(doc.index, doc.value)


def view_keys(keys: Keys, state: State) -> set[str]:
    """The keys of all views of the state."""
    return {
        *(keys.document(path) for path in state.documents), *(keys.desired_of(node) for node in state.specs),
        *(keys.actions_of(node) for node in state.actions),
    }  # fmt: skip


def difference(wanted: Mapping[str, bytes], found: Mapping[str, bytes]) -> ViewChanges:
    """The changes that turn `found` into `wanted`."""
    changes: ViewChanges = {key: value for key, value in wanted.items() if found.get(key) != value}
    changes.update({key: None for key in found if key not in wanted})
    return changes


def size_of(changes: Mapping[str, bytes | None]) -> int:
    return sum(len(key) + len(value or b"") + 16 for key, value in changes.items())


def fits(changes: Mapping[str, bytes | None], budget: TxnBudget) -> bool:
    return len(changes) <= budget.ops and size_of(changes) <= budget.size_bytes


def chunks(changes: Mapping[str, bytes | None], budget: TxnBudget) -> Iterator[ViewChanges]:
    """The changes in key order, in parts within the budget. A change larger than the budget is a part of its own."""
    part: ViewChanges = {}
    size = 0
    for key in sorted(changes):
        weight = size_of({key: changes[key]})
        if part and (len(part) >= budget.ops or size + weight > budget.size_bytes):
            yield part
            part, size = {}, 0
        part[key] = changes[key]
        size += weight
    if part:
        yield part
