"""Invariants of a simulated cluster, checked on the store's whole history and on the results that clients got.

Each function returns its findings; `checkers` calls all of them. The history is the fake store's log, which neither
truncation nor compaction shortens. No masterd is asked, as it might be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from masterd.state_machine.batch import CONFIG_ADOPT, CONFIG_RESPEC, SNAPSHOT_RESTORE
from masterd.state_machine.closed_ids import COMMAND_CLOSE
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from masterd.state_machine.views import all_views
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.schema.keys import Keys
from nodestore.schema.models import Applied, CommandRecord, Entry, Epoch, Head, Term, decode
from nodestore.support.jsonio import Document, copy, loads
from tests.simulation.app import SimApp, result_by_hand
from tests.simulation.world import ClientCommand, Read, World
from tests.support.fakes.etcd import FakeEtcd
from tests.support.images import decode_image

OWN = {COMMAND_CLOSE, CONFIG_ADOPT, CONFIG_RESPEC, SNAPSHOT_RESTORE, "action.done", "node.changed"}


@dataclass
class Written:
    """An entry as it was put, with the term in force at that revision."""

    key: str
    revision: int
    entry: Entry
    term_in_force: int


@dataclass
class History:
    """The contents of the store's log."""

    entries: list[Written] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)
    """The latest values."""
    chunks: dict[str, bytes] = field(default_factory=dict)
    """The chunks of all snapshots, including deleted ones."""

    @property
    def records(self) -> list[CommandRecord]:
        return [record for written in self.entries for record in written.entry.commands]


def history_of(server: FakeEtcd, keys: Keys) -> History:
    history, leader = History(), 0
    for revision, events in server.store.log:
        in_force = leader
        for event in events:
            key = event.kv.key.decode()
            deleted = event.type == pb.Event.DELETE
            if key == keys.leader:
                leader = 0 if deleted else revision
            if deleted:
                history.keys.pop(key, None)
                continue
            history.keys[key] = event.kv.value
            if key.startswith(keys.journal):
                history.entries.append(Written(key, revision, decode(Entry, event.kv.value, key), in_force))
            elif key.startswith(keys.snapshots):
                history.chunks[key.removeprefix(keys.snapshots)] = event.kv.value
    return history


def gaps_and_forks(keys: Keys, history: History) -> list[str]:
    """Indexes grow by one from 1 to head, each written once, in the order of revisions."""
    indexes = [record.index for record in history.records]
    wrong = [] if indexes == list(range(1, len(indexes) + 1)) else [f"the journal's indexes are {indexes}"]
    names = [written.key for written in history.entries]
    wrong += [f"{name} was written {names.count(name)} times" for name in set(names) if names.count(name) > 1]
    wrong += [
        f"{written.key} ends at index {written.entry.last}"
        for written in history.entries
        if written.key != keys.entry(written.entry.last)
    ]
    raw = history.keys.get(keys.head)
    head = decode(Head, raw, keys.head).index if raw is not None else 0
    return wrong if head == len(indexes) else [*wrong, f"head is at {head}, the journal ends at {len(indexes)}"]


def writes_of_the_deposed(history: History) -> list[str]:
    """Each entry names the term in force when it was written."""
    return [
        f"{written.key} was written by term {written.entry.term} while {written.term_in_force} was in force"
        for written in history.entries
        if written.entry.term != written.term_in_force
    ]


def lost_or_doubled(history: History, commands: list[ClientCommand]) -> list[str]:
    """An acknowledged command is in the journal once, with its index and result; a refused one never; others at most
    once. Closed ids are left out: `tests.faults.checkers.history_checks` checks them."""
    at: dict[str, list[CommandRecord]] = {}
    for record in history.records:
        at.setdefault(record.id, []).append(record)
    wrong = [
        f"{known} took effect at {[record.index for record in records]}"
        for known, records in at.items()
        if len(records) > 1
    ]
    for command in commands:
        found = [record for record in at.get(command.id, []) if record.name != COMMAND_CLOSE]
        if command.index and (not found or (found[0].index, found[0].result) != (command.index, command.result)):
            wrong.append(f"{command} was acknowledged; the journal has {found}")
        if command.refused is not None and found:
            wrong.append(f"{command} was refused; the journal has {found}")
        if any((record.name, record.args) != (command.name, command.args) for record in found):
            wrong.append(f"{command} is in the journal as {found}")
    sent = {command.id for command in commands}
    return wrong + [f"{known} was never sent" for known, records in at.items()
                    if known not in sent and records[0].name not in OWN]  # fmt: skip


def fold(history: History) -> State:
    """The state after the whole journal, applied by masterd's own code."""
    state = State()
    for written in history.entries:
        if written.entry.first == state.index + 1:
            names = {record.restore for record in written.entry.commands if record.restore is not None}
            state.apply(written.entry, {name: image_of(history, name) for name in names})
    return state


def image_of(history: History, name: str) -> dict[str, Document]:
    keys = sorted(key for key in history.chunks if key.startswith(f"{name}/") and not key.endswith("/manifest"))
    image = decode_image([history.chunks[key] for key in keys], name)
    return {path: doc.value for path, doc in image.documents.items()}


def states_by_hand(history: History) -> tuple[dict[int, dict[str, Document]], list[str]]:
    """The documents at each index, computed from the commands alone, and the results in the journal that differ."""
    documents: dict[str, Document] = {}
    at, wrong = {0: dict(documents)}, []
    for record in history.records:
        if record.restore is not None:
            documents = copy(at[int(record.restore.partition("-")[0])])
        elif record.name in OWN:
            for path, document in record.writes.items():
                documents[path] = document or {}
        else:
            result = result_by_hand(documents, record.name, record.args)
            if result != record.result:
                wrong.append(f"index {record.index}, {record.name}: {record.result} is recorded, it must be {result}")
        at[record.index] = copy(documents)
    return at, wrong


def wrong_results(history: History) -> list[str]:
    """Each result follows from the commands before it, and so do the final documents."""
    at, wrong = states_by_hand(history)
    documents = {path: doc.value for path, doc in fold(history).documents.items()}
    expected = at[max(at)]
    return wrong if documents == expected else [*wrong, f"the documents are {documents}, they must be {expected}"]


def wrong_reads(history: History, reads: list[Read]) -> list[str]:
    """Each read shows the complete state at its index."""
    at, _ = states_by_hand(history)
    return [
        f"a read at index {read.index} showed {read.documents}, it must be {at.get(read.index)}"
        for read in reads
        if read.documents != at.get(read.index)
    ]


def stale_reads(commands: list[ClientCommand], reads: list[Read]) -> list[str]:
    """Each read includes every command that was acknowledged before the read was sent."""
    return [
        f"a read at index {read.index} missed {command.id} of index {command.index}, acknowledged before"
        for read in reads
        for command in commands
        if command.ended is not None and command.ended < read.sent and command.index > read.index
    ]


def views_that_differ(keys: Keys, history: History, state: State) -> list[str]:
    """`state/`, `desired/` and `actions/` are derived from the journal, whichever term wrote them last."""
    derivation = SpecDeriver(SimApp())
    derivation.rebuild(state.inventory, Overlay(state, state.inventory, 0.0))
    raw_epoch = history.keys.get(keys.epoch)
    epoch = decode(Epoch, raw_epoch, keys.epoch).epoch if raw_epoch is not None else 1
    wanted = all_views(keys, Term(epoch, 0), state, derivation)
    views = (keys.state, keys.desired, keys.actions)
    found = {key: value for key, value in history.keys.items() if key.startswith(views)}
    wrong = [
        f"view {key} is {found.get(key)!r}, it must be {wanted.get(key)!r}"
        for key in sorted(wanted.keys() | found.keys())
        if _termless(wanted.get(key)) != _termless(found.get(key))
    ]
    raw = history.keys.get(keys.applied)
    if raw is not None:
        applied = decode(Applied, raw, keys.applied)
        if (applied.index, applied.base, applied.through) != (state.index, state.index, None):
            wrong.append(f"applied is {applied.model_dump()}, the journal ends at {state.index}")
    elif state.index:
        wrong.append("applied is missing")
    return wrong


def _termless(raw: bytes | None) -> Any:
    if raw is None:
        return None
    view = loads(raw)
    return {**view, "term": None} if isinstance(view, dict) and "term" in view else view


def replicas_that_differ(world: World, state: State) -> list[str]:
    """The state in each masterd's memory, including command ids, is that of the journal."""
    names = ("index", "time", "documents", "specs", "adopted", "ids", "floor", "actions")
    return [
        f"{pc.name} has another {name}: {getattr(pc.parts.replica.state, name)} instead of {getattr(state, name)}"
        for pc in world.running.values()
        for name in names
        if getattr(pc.parts.replica.state, name) != getattr(state, name)
    ]
