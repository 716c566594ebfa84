"""A small application for tests, with refusals, errors and dependent reads, which the built-in one lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from masterd.application.contract import Command, Transaction, View
from masterd.state_machine.batch import (
    SNAPSHOT_RESTORE,
    Batch,
    BatchLimits,
    CommandOutcome,
    CommandRequest,
)
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from nodestore.errors import Refused
from nodestore.schema.entry_codec import encode_entry
from nodestore.schema.models import ConfigRecord, Entry, Inventory, Spec, decode
from nodestore.support.jsonio import Document, Json

TERM = (1, 7)


class Put(BaseModel):
    path: str = "p"
    document: dict[str, Any] = {}


class Result(BaseModel):
    value: Any = None


class ToyApp:
    """A small application with a document for each node.

    The spec of a node shows its document `nodes/<node>`. If that has `see`, it shows the document at that path instead;
    if it has `count`, the number of documents under `list/`. A document with `poison` makes `desired` fail.
    """

    name = "toy"

    def __init__(self) -> None:
        self.kept: list[Any] = []
        """The objects that handlers received and returned. Tests change them afterwards."""
        self.ran: list[str] = []

    def commands(self) -> Mapping[str, Command]:
        return {
            "put": Command(Put, self._put),
            "delete": Command(Put, self._delete),
            "add": Command(Put, self._add),
            "refuse": Command(Put, self._refuse),
            "fail": Command(Put, self._fail),
            "answer": Command(Result, self._answer),
        }

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        document = view.get(f"nodes/{node}")
        if document is None:
            return None
        if "poison" in document:
            raise ZeroDivisionError("desired cannot digest this")
        if "see" in document:
            document = view.get(document["see"]) or {}
        if "count" in document:
            document = {"count": len(view.paths("list/"))}
        return Spec(driver="toy", document={**config.defaults.document, **document})

    def node_document(self, node: str) -> str | None:
        return f"nodes/{node}"

    def _put(self, transaction: Transaction, arguments: Put) -> Json:
        self.ran.append("put")
        transaction.put(arguments.path, arguments.document)
        result = {"path": arguments.path, "document": arguments.document}
        self.kept += [arguments.document, result, transaction.get(arguments.path)]
        return result

    def _delete(self, transaction: Transaction, arguments: Put) -> Json:
        transaction.delete(arguments.path)
        return transaction.paths("")

    def _add(self, transaction: Transaction, arguments: Put) -> Json:
        """Not idempotent, so that a command that takes effect twice shows."""
        self.ran.append("add")
        document = transaction.get(arguments.path) or {"sum": 0}
        document["sum"] += 1
        transaction.put(arguments.path, document)
        return document["sum"]

    def _refuse(self, transaction: Transaction, arguments: Put) -> Json:
        transaction.put(arguments.path, arguments.document)
        raise Refused("as asked")

    def _fail(self, transaction: Transaction, arguments: Put) -> Json:
        transaction.put(arguments.path, arguments.document)
        raise ZeroDivisionError("as asked")

    def _answer(self, _: Transaction, arguments: Result) -> Json:
        return arguments.value


class Line:
    """A leader and its journal in memory: runs batches, commits them or not, and keeps the entries' bytes."""

    def __init__(self, *nodes: str, limits: BatchLimits | None = None, now: float = 1000.0) -> None:
        self.app = ToyApp()
        self.state = State()
        self.derivation = SpecDeriver(self.app)
        self.limits = limits or BatchLimits()
        self.now = now
        self.entries: list[bytes] = []
        self.images: dict[str, dict[str, Document]] = {}
        """The documents of the snapshots that entries restore."""
        self._numbers = 0
        if nodes:
            self.adopt(inventory(*nodes))

    def batch(self) -> Batch:
        return Batch(self.state, self.app, self.derivation, self.now, self.limits)

    def adopt(self, config: Inventory) -> None:
        batch = self.batch()
        self._numbers += 1
        record = ConfigRecord(version=self._numbers, actor="admin", time=0.0, inventory=config.model_dump(mode="json"))
        batch.adopt(record, 100 + self._numbers)
        self.commit(batch)

    def restore(self, image: dict[str, Document]) -> CommandOutcome:
        """Commit a restore of a snapshot that holds these documents."""
        name = f"snapshot-{len(self.images)}"
        self.images[name] = image
        batch = self.batch()
        outcome = batch.restore(self.request(SNAPSHOT_RESTORE, snapshot=name), name, image)
        self.commit(batch)
        return outcome

    def commit(self, batch: Batch) -> Entry:
        """Commit the batch as the leader does: add its entry to the journal and apply it to the state."""
        application = self.app.name if self.state.application is None else None
        raw = encode_entry(*TERM, "nonce", batch.encoded, application=application)
        self.entries.append(raw)
        entry = Entry.model_construct(
            v=1, epoch=1, term=7, nonce="nonce", commands=tuple(batch.records), application=application
        )
        self.state.apply(entry, self.images)
        return decode(Entry, raw, "entry")

    def run(self, *requests: CommandRequest) -> list[CommandOutcome | None]:
        """Run the commands as one batch; commit it if it wrote something."""
        batch = self.batch()
        outcomes = [batch.execute(request) for request in requests]
        if batch.records:
            self.commit(batch)
        return outcomes

    def one(self, name: str, known_as: str = "", after: int | None = None, **args: Any) -> CommandOutcome:
        outcome = self.run(self.request(name, known_as, after, **args))[0]
        assert outcome is not None
        return outcome

    def request(self, name: str, known_as: str = "", after: int | None = None, **args: Any) -> CommandRequest:
        self._numbers += 1
        return CommandRequest(known_as or f"auto-{self._numbers}", name, args, "tester", after)

    def document(self, path: str) -> Document | None:
        doc = self.state.documents.get(path)
        return None if doc is None else doc.value


def inventory(*nodes: str, **document: Any) -> Inventory:
    return Inventory.model_validate({"nodes": {node: {} for node in nodes}, "defaults": {"document": document}})


def replayed(line: Line, start: State | None = None) -> State:
    """Return the state after applying the journal to `start`, from the index of `start` on."""
    state = start or State()
    for raw in line.entries:
        entry = decode(Entry, raw, "entry")
        if entry.first > state.index:
            state.apply(entry, line.images)
    return state


def same(one: State, other: State) -> bool:
    """Whether two states are equal, including the order in which their ids will be forgotten."""
    names = ("index", "time", "documents", "specs", "adopted", "ids", "floor", "restores", "actions", "application")
    return all(getattr(one, name) == getattr(other, name) for name in names) and list(one.ids) == list(other.ids)
