"""`AppHarness`: a leader and its journal in memory, with one application."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from masterd.state_machine.actions import ActionClosure
from masterd.state_machine.batch import Batch, CommandRequest
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from nodesdk.application import Application, HearsNodes, NodeSeen, Transaction
from nodesdk.errors import Invalid, NodectlError, NotFound
from nodesdk.json_types import Document, Json
from nodesdk.models import Inventory, Phase, Spec, Status
from nodesdk.testing.nonconformance import AppNonconformance
from nodestore.schema.entry_codec import encode_entry
from nodestore.schema.models import Action, CommandRecord, ConfigRecord, Entry, decode, first_problem
from nodestore.support.json_rules import checked_copy
from nodestore.support.jsonio import copy

_COMPARED = ("index", "time", "documents", "specs", "adopted", "ids", "floor", "restores", "actions")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command: an index and a result, or an error. index: 0 if it has none."""

    index: int
    result: Json
    repeated: bool
    error: NodectlError | None


@dataclass(frozen=True)
class PendingAction:
    """A pending action of a node. index: of the command that requested it. expires: seconds since 1970."""

    index: int
    name: str
    args: Document
    expires: float


class AppHarness:
    """An application with its state, documents and specs.

    app: an application, or its class. inventory: an Inventory, its content as in an inventory file, or the names of
    nodes; it is adopted at once. now: the leader's clock, which only `advance` changes.
    """

    def __init__(
        self,
        app: Application | type[Application],
        inventory: Inventory | Mapping[str, Any] | Iterable[str] | None = None,
        *,
        now: float = 1_000_000_000.0,
    ) -> None:
        self._given = app
        self.app: Application = app() if isinstance(app, type) else app
        self.now = now
        self._state, self._specs = State(), SpecDeriver(self.app)
        self._entries: list[bytes] = []
        self._sent = 0
        self._fault: BaseException | None = None
        if inventory is not None:
            self.apply_config(inventory)

    # --- commands and events ---

    def run(self, name: str, args: Mapping[str, Any] | None = None, /, **arguments: Any) -> Json:
        """Run a command and return its result.

        Raises its error: Refused, NotFound, Conflict, Invalid, TooLarge, or NodectlError (with the cause) if the
        handler failed.
        """
        outcome = self.send(name, {**(args or {}), **arguments})
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def send(
        self, name: str, args: Mapping[str, Any] | None = None, /, *, id: str = "", actor: str = "test"
    ) -> Outcome:
        """Run a command and return its outcome. id: the same id again is a repeat, which gets the first result."""
        request = CommandRequest(
            id or self._new_id("command"), name, checked_copy(dict(args or {}), "arguments"), actor
        )
        return self._execute(request)

    def node_changed(
        self,
        node: str,
        *,
        present: bool = True,
        phase: Phase | None = None,
        error: str | None = None,
        actual: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:
        """Report a node to the application, as the leader does. Raises what the application raises.

        phase, error, actual: fields of its status, whose observed generation is the node's generation. Without `phase`
        the node has not reported a status. status: a complete status instead of these fields.
        """
        if not isinstance(self.app, HearsNodes):
            raise TypeError(f"application {self.app.name} has no function for changes of nodes")
        self._check_node(node)
        if status is None and phase is not None:
            status = Status(
                node=node, nonce="test", host=node, phase=phase, error=error, actual=dict(actual or {}),
                observed_generation=self.generation(node),
            )  # fmt: skip
        report, seen = self.app.node_changed, NodeSeen(present, status)

        def handle(transaction: Transaction) -> None:
            report(transaction, node, seen)

        request = CommandRequest(self._new_id("node.changed"), "node.changed", {}, node, internal_handler=handle)
        self._raise(self._execute(request).error)

    def apply_config(self, inventory: Inventory | Mapping[str, Any] | Iterable[str]) -> None:
        """Adopt an inventory as the configuration. Raises Invalid if it is not a valid inventory.

        If `on_config_change` raises, the configuration is adopted without its writes. Then this raises the error, which
        masterd only logs.
        """
        record = self._config_record(inventory)
        self._fault = None
        changes = self._batch().run_config_handler(record)
        batch = self._batch()
        try:
            batch.adopt(record, record.version, changes)
        except NodectlError:
            batch.undo_derivation()
            raise
        self._commit(batch)
        if self._fault is not None:
            raise self._fault

    def complete_action(self, node: str, result: Json = None, *, error: str | None = None) -> None:
        """Complete the oldest pending action of a node; with `error`, as failed. Raises NotFound if none is pending."""
        pending = self._state.actions.get(node, ())
        if not pending:
            raise NotFound(f"no action of node {node!r} is pending")
        ending = ActionClosure(node, pending[0], "done" if error is None else "failed", result, error)
        outcome = checked_copy(ending.outcome, "the result of an action")
        self._execute(
            CommandRequest(
                ending.id, "action.done", ending.args, node,
                internal_handler=lambda _: outcome, closes={node: (pending[0].index,)},
            )
        )  # fmt: skip

    def advance(self, seconds: float) -> None:
        """Let time pass on the leader's clock."""
        self.now += seconds

    def failover(self) -> None:
        """Let another master take over, which has nothing but the journal.

        If the application was given as a class, a new instance is made. Raises AppNonconformance unless the state and
        the specs are the same as before.
        """
        state = State()
        for raw in self._entries:
            state.apply(decode(Entry, raw, "entry"))
        different = [name for name in _COMPARED if getattr(state, name) != getattr(self._state, name)]
        if different:
            raise AppNonconformance(f"the journal does not yield the same state: {', '.join(different)} differ")
        if isinstance(self._given, type):
            self.app = self._given()
        self._state, self._specs = state, SpecDeriver(self.app)
        batch = self._batch()
        batch.rebuild_specs()
        if nodes := batch.differing_nodes():
            raise AppNonconformance(f"desired is not pure: a new leader derives other specs of {', '.join(nodes)}")

    # --- the state ---

    @property
    def index(self) -> int:
        """Index of the last command that was committed; 0 before the first."""
        return self._state.index

    @property
    def documents(self) -> dict[str, Document]:
        """All documents by path."""
        return {path: copy(found.value) for path, found in self._state.documents.items()}

    def document(self, path: str) -> Document | None:
        """The document at `path`; None if there is none."""
        found = self._state.documents.get(path)
        return None if found is None else copy(found.value)

    def spec(self, node: str) -> Spec | None:
        """The desired spec of a node; None if nothing may run. Raises NotFound for a node not in the inventory."""
        self._check_node(node)
        return self._specs[node].spec

    def generation(self, node: str) -> int:
        """Index of the command that last changed the spec of a node; 0 if it has none."""
        mark = self._state.specs.get(node)
        return 0 if mark is None else mark.generation

    def actions(self, node: str) -> tuple[PendingAction, ...]:
        """The pending actions of a node, oldest first."""
        return tuple(_pending(action) for action in self._state.actions.get(node, ()))

    @property
    def journal(self) -> list[dict[str, Any]]:
        """All commands that were committed, as `nodectl history -o json` shows them."""
        records = (record for raw in self._entries for record in decode(Entry, raw, "entry").commands)
        return [record.model_dump(mode="json", exclude_defaults=True) for record in records]

    # --- internals ---

    def _check_node(self, node: str) -> None:
        if node not in self._state.inventory.nodes:
            raise NotFound(f"there is no node {node!r} in the configuration")

    def _new_id(self, kind: str) -> str:
        self._sent += 1
        return f"{kind}-{self._sent}"

    def _batch(self) -> Batch:
        return Batch(self._state, self.app, self._specs, self.now, on_fault=self._on_fault)

    def _on_fault(self, _: str, error: BaseException) -> None:
        self._fault = error

    def _execute(self, request: CommandRequest) -> Outcome:
        batch = self._batch()
        done = batch.execute(request)
        assert done is not None, "an empty batch has room for one command"
        self._commit(batch)
        result = self._result_at(done.index) if done.result_in_journal else done.result
        return Outcome(done.index, result, done.repeated, done.error)

    def _result_at(self, index: int) -> Json:
        """The result of a command, from the journal: large ones are not part of the state."""
        entries = (decode(Entry, raw, "entry") for raw in self._entries)
        return next(record.result for entry in entries for record in entry.commands if record.index == index)

    def _commit(self, batch: Batch) -> None:
        """Append the entry of the batch and apply it as a standby does: decoded from its bytes."""
        if batch.records:
            self._entries.append(encode_entry(1, 1, "test", batch.encoded))
            self._state.apply(decode(Entry, self._entries[-1], "entry"))

    @staticmethod
    def _raise(error: NodectlError | None) -> None:
        if error is not None:
            raise error.__cause__ or error

    def _config_record(self, inventory: Inventory | Mapping[str, Any] | Iterable[str]) -> ConfigRecord:
        adopted = self._state.adopted
        version = 1 if adopted is None else adopted.record.version + 1
        content = inventory_of(inventory).model_dump(mode="json")
        return ConfigRecord(version=version, actor="test", time=self.now, inventory=content)


def inventory_of(given: Inventory | Mapping[str, Any] | Iterable[str]) -> Inventory:
    """An inventory from its content or from names of nodes. Raises Invalid."""
    if isinstance(given, Inventory):
        return given
    content = given if isinstance(given, Mapping) else {"nodes": {node: {} for node in given}}
    try:
        return Inventory.model_validate(content)
    except ValidationError as error:
        raise Invalid(f"inventory: {first_problem(error)}") from None


def record_of(fields: Mapping[str, Any]) -> CommandRecord:
    """A command of a journal, from its JSON. Raises Invalid."""
    try:
        return CommandRecord.model_validate(fields)
    except ValidationError as error:
        raise Invalid(f"journal: {first_problem(error)}") from None


def _pending(action: Action) -> PendingAction:
    return PendingAction(action.index, action.name, dict(action.args), action.expires)
