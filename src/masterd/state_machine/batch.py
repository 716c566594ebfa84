"""Runs a batch of commands on an overlay of the committed state. Pure: times and ids are arguments.

Nothing here changes the state. The results of a batch take effect when its entry is committed and applied. If it is
not committed, they are discarded.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import ValidationError

from masterd.application.contract import Application, Command, ConfigChange, GivenUp, HearsConfig
from masterd.application.secret_fields import declared_fields, marked_arguments
from masterd.state_machine.actions import ACTION_DONE, COMMON_COMMANDS
from masterd.state_machine.closed_ids import COMMAND_CLOSE, closing_record, is_closed
from masterd.state_machine.group_limits import GroupLimits
from masterd.state_machine.remembered import check_same_request, request_digest
from masterd.state_machine.specs import DerivedSpec, SpecDeriver
from masterd.state_machine.state import State, document_size, needs_preparation, pending_after, prepare_record
from masterd.state_machine.transaction import Overlay
from masterd.state_machine.views import actions_view
from nodestore.errors import Conflict, IdClosed, Invalid, NodectlError, NotFound, TooLarge, TooOld
from nodestore.schema.entry_codec import decode_record, encode_record
from nodestore.schema.limits import ACTOR_BYTES_MAX, COMMAND_ID_BYTES_MAX, COMMAND_NAME_BYTES_MAX, check_text, shortened
from nodestore.schema.models import Action, ConfigRecord, Inventory, Term
from nodestore.schema.records import MarkStruct, RecordStruct
from nodestore.support.json_rules import checked_copy
from nodestore.support.jsonio import Document, Json, copy
from nodestore.support.secrets import SecretFields, without_secrets

CONFIG_ADOPT = "config.adopt"
CONFIG_RESPEC = "config.respec"
RESULTS_FORGET = "results.forget"
CONFIG_APPLICATION = "config.application"
SNAPSHOT_RESTORE = "snapshot.restore"
TIME_RESET = "time.reset"
ALONE = frozenset({SNAPSHOT_RESTORE, TIME_RESET})
"""Commands that masterd runs itself, each as a batch of its own."""
OWN_IDS = tuple(f"{name}-" for name in (ACTION_DONE, CONFIG_ADOPT, CONFIG_APPLICATION, CONFIG_RESPEC, RESULTS_FORGET))
"""With these begin the ids of the commands that the leader records by itself. No client may use or close such an id: it
could guess that of an action, which would stay pending for ever, or that of a configuration or a term, whose record
would then replace what is remembered of the client's command."""
_ANY_TERM = Term((1 << 63) - 1, (1 << 63) - 1)
"""The longest term, to compute the size of views."""


class CommandRequest(Struct, frozen=True):
    """A command as its client requested it.

    after: the last index that the client knew when it first sent the command; None if the command is never repeated.
    internal_handler: runs in place of the application's handler, for masterd's own commands. If such a command writes
        no document, requests no action and closes none, it is not recorded.
    closes: indexes of pending actions, by node, that this command marks as finished.
    groups: groups to whose nodes the command's sender is limited; empty: to none.
    address: the IP address that the command came from. on_behalf_of: for whom the sender says that it acts.
    asks_outcome: run nothing, but answer what became of the command `id`; see `closed_ids.py`.
    """

    id: str
    name: str
    args: Mapping[str, Any]
    actor: str
    after: int | None = None
    internal_handler: Callable[[Overlay], Json] | None = None
    closes: Mapping[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    groups: tuple[str, ...] = ()
    address: str = ""
    on_behalf_of: str = ""
    asks_outcome: bool = False


def outcome_question(command_id: str, after: int, actor: str, address: str = "") -> CommandRequest:
    """The question what became of the command with this id. after: that of the command, or a smaller one. actor: who
    asks. address: the IP address that the question came from."""
    return CommandRequest(command_id, COMMAND_CLOSE, {}, actor, after, address=address, asks_outcome=True)


class CommandOutcome(Struct, frozen=True):
    """The outcome of a command: an index and a result, or an error.

    repeated: an earlier attempt had this outcome. result_in_journal: the result is not here; the caller reads it from
    the journal's entry with this index. closed: the answer to a question: no command used the id, and none will; the
    index is that of the record which closed it.
    """

    id: str
    index: int = 0
    result: Json = None
    repeated: bool = False
    error: NodectlError | None = None
    result_in_journal: bool = False
    closed: bool = False


@dataclass(slots=True)
class BatchLimits:
    """Upper limits of one batch."""

    commands_max: int = 256
    entry_bytes_max: int = 1 << 20
    spec_bytes_max: int = 1 << 20
    """Limit for each node's spec: `desired/<node>` must fit into one transaction."""
    state_bytes_max: int = 8 << 20
    """Limit for all documents and specs together. Above it, a command that makes them smaller is accepted."""
    batch_bytes_max: int | None = None
    """Limit for the commands of a batch together; None: `entry_bytes_max`. One command may exceed it, alone."""


@dataclass(slots=True)
class Batch:
    """Commands that run one after another on an overlay of `state` and are committed together or not at all."""

    state: State
    application: Application
    spec_deriver: SpecDeriver
    now: float
    limits: BatchLimits = field(default_factory=BatchLimits)
    records: list[RecordStruct] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    entry_bytes: int = 0
    changed_specs: dict[str, DerivedSpec] = field(default_factory=dict)
    overlay: Overlay = field(init=False)
    epoch: int = 1
    restored_documents: dict[str, Document | None] = field(default_factory=dict)
    """Documents that a restore changes. The record names only the snapshot, so the views are written from these."""
    on_fault: Callable[[str, BaseException], None] = lambda name, error: None
    """Called with the command's name and the exception of its handler. Not called for a NodectlError, with which a
    handler refuses a command."""
    _ids: dict[str, RecordStruct] = field(default_factory=dict)
    """The records of the batch by command id."""
    _documents_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.now = max(self.now, self.state.time)
        self.overlay = Overlay(self.state, self.state.inventory, self.now)
        self._documents_bytes = self.state.documents_bytes

    @property
    def next_index(self) -> int:
        return self.state.index + len(self.records) + 1

    def _transaction(self) -> Overlay:
        """A transaction on top of this batch."""
        return Overlay(self.overlay, self.overlay.config, self.now)

    def execute(self, request: CommandRequest) -> CommandOutcome | None:
        """Run one command; return its outcome, valid once the batch is committed. None if the batch is full."""
        try:
            known = self._earlier_outcome(request)
        except NodectlError as error:
            return CommandOutcome(request.id, error=error)
        if known is not None:
            return known
        if len(self.records) >= self.limits.commands_max:
            return None
        transaction = self._transaction()
        try:
            _check_texts(request)
            if request.asks_outcome:
                return self._close_id(request)
            result = self._handle(request, transaction)
            if request.internal_handler is not None and not (
                transaction.writes or transaction.actions or request.closes
            ):
                return CommandOutcome(request.id, result=result)
            return self._admit(request, result, transaction)
        except NodectlError as error:
            return CommandOutcome(request.id, error=error)

    def _admit(self, request: CommandRequest, result: Json, transaction: Overlay) -> CommandOutcome | None:
        """Add the writes of a handler to the batch; return the command's outcome. None if the batch is full.

        If this method returns None or raises, the batch is unchanged.
        """
        affected = self.spec_deriver.affected(transaction.writes)
        admitted = False
        specs_bytes = self.spec_deriver.total_bytes
        try:
            derived = self.spec_deriver.update(self.overlay.config, transaction, affected)
            if request.groups:
                limits = GroupLimits(
                    request.actor, request.groups, self.overlay.config, self.application,
                    lambda path: self.spec_deriver.affected([path]),
                )  # fmt: skip
                limits.check_nodes({*derived, *transaction.actions})
                limits.check_documents(transaction.writes, self.overlay.get)
            self._check_specs(derived)
            growth = self._check_state_size(request.name, transaction, specs_bytes)
            record, raw = self._encode(self._record(request, result, transaction, derived))
            if len(raw) > self.limits.entry_bytes_max:
                raise TooLarge(
                    f"command {request.name} would write {len(raw)} bytes; the limit is {self.limits.entry_bytes_max}"
                )
            if not self._has_room(raw):
                return None
            admitted = True
        finally:
            if not admitted:
                self.spec_deriver.update(self.overlay.config, self.overlay, affected, tolerant=True)
        self._append_record(record, raw, derived, transaction.writes, growth)
        self._ids[request.id] = record
        return CommandOutcome(request.id, record.index, result)

    def _has_room(self, raw: bytes) -> bool:
        """Whether this record fits into the batch. The first one always does."""
        batch_bytes_max = self.limits.batch_bytes_max or self.limits.entry_bytes_max
        return not self.records or self.entry_bytes + len(raw) <= batch_bytes_max

    def _close_id(self, request: CommandRequest) -> CommandOutcome | None:
        """Close the id of a question, which is unknown; return the answer. None if the batch is full."""
        record, raw = self._encode(closing_record(
            request.id, request.actor, request.address, index=self.next_index, time=self.now,
            config_version=self._config_version,
        ))  # fmt: skip
        if not self._has_room(raw):
            return None
        self._append_record(record, raw)
        self._ids[request.id] = record
        return CommandOutcome(request.id, record.index, closed=True)

    def restore(self, request: CommandRequest, snapshot: str, image: Mapping[str, Document]) -> CommandOutcome:
        """Replace all documents by those of a snapshot, in a record that only names the snapshot.

        Ids, indexes, generations and the configuration stay. Must be the only command of its batch.
        """
        known = self._earlier_outcome(request)
        if known is not None:
            return known
        _check_texts(request)
        args = checked_copy(dict(request.args), "arguments")
        transaction = self._transaction()
        transaction.writes = {path: None for path in self.state.documents if path not in image}
        for path, document in image.items():
            before = self.state.documents.get(path)
            if before is None or before.value != document:
                transaction.writes[path] = document
        affected = self.spec_deriver.affected(transaction.writes)
        specs_bytes = self.spec_deriver.total_bytes
        result = {"snapshot": snapshot, "documents": len(image), "changed": len(transaction.writes)}
        try:
            derived = self.spec_deriver.update(self.overlay.config, transaction, affected)
            self._check_specs(derived)
            growth = self._check_state_size(request.name, transaction, specs_bytes)
            record, raw = self._encode(RecordStruct(
                index=self.next_index, id=request.id, actor=request.actor, time=self.now, name=request.name, args=args,
                result=result, specs=self._marks(derived), restore=snapshot, config_version=self._config_version,
                address=request.address, on_behalf_of=request.on_behalf_of,
            ))  # fmt: skip
        except NodectlError:
            self.spec_deriver.update(self.overlay.config, self.overlay, affected, tolerant=True)
            raise
        self._append_record(record, raw, derived, transaction.writes, growth)
        self.restored_documents = transaction.writes
        return CommandOutcome(request.id, record.index, result)

    def reset_time(self, request: CommandRequest, time: float) -> CommandOutcome:
        """Set the cluster's time to `time`, and shift the deadlines of all pending actions by as much.

        Must be the only command of its batch.
        """
        known = self._earlier_outcome(request)
        if known is not None:
            return known
        _check_texts(request)
        if request.args:
            raise Invalid(f"{TIME_RESET} takes no arguments")
        shift = time - self.now
        if not math.isfinite(shift):
            raise Invalid(f"{TIME_RESET}: the clocks of the PCs show {time}, which is no time")
        result = {"time": time, "shifted_s": round(shift, 3)}
        record, raw = self._encode(RecordStruct(
            index=self.next_index, id=request.id, actor=request.actor, time=time, name=TIME_RESET, args={},
            result=result, time_shift=shift, config_version=self._config_version, address=request.address,
            on_behalf_of=request.on_behalf_of,
        ))  # fmt: skip
        self._append_record(record, raw)
        return CommandOutcome(request.id, record.index, result)

    def run_config_handler(self, config: ConfigRecord) -> Overlay | None:
        """Run the application's handler for the adoption of this configuration. Returns what the handler writes and
        requests, to be passed to `adopt` as `changes`.

        None if the application has no such handler, or if the handler writes nothing or raises; an exception is
        reported to `on_fault`. Raises pydantic's ValidationError or NodectlError if the configuration is not an
        inventory.
        """
        if not isinstance(self.application, HearsConfig):
            return None
        inventory = _inventory(config)
        transaction = Overlay(self.overlay, inventory, self.now)
        try:
            self.application.config_changed(transaction, ConfigChange(self.state.inventory, inventory))
        except GivenUp:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it raises, the configuration is adopted
            self.on_fault(CONFIG_ADOPT, error)
            return None
        return transaction if transaction.writes or transaction.actions else None

    def adopt(self, config: ConfigRecord, revision: int, changes: Overlay | None = None) -> RecordStruct:
        """Adopt a configuration. revision: mod_revision of `config/current`.

        changes: writes and actions from `run_config_handler`, which become part of the same entry.
        Raises pydantic's ValidationError if the configuration is not an inventory, NodectlError if the application
        fails on it, TooLarge if the changes do not fit into the entry. After an error, discard the batch and call
        `undo_derivation`.
        """
        inventory = _inventory(config)
        self.overlay.config = inventory
        transaction = self._transaction()
        if changes is not None:
            transaction.writes.update(changes.writes)
            transaction.actions.update(changes.actions)
        specs_bytes = self.spec_deriver.total_bytes
        derived = self.spec_deriver.rebuild(inventory, transaction)
        self._check_specs(derived)
        growth = self._check_state_size(CONFIG_ADOPT, transaction, specs_bytes)
        record, raw = self._encode(RecordStruct(
            index=self.next_index,
            id=f"{CONFIG_ADOPT}-{revision}",
            actor=shortened(config.actor, ACTOR_BYTES_MAX),
            time=self.now,
            name=CONFIG_ADOPT,
            args={"version": config.version},
            result={"version": config.version},
            writes=transaction.writes,
            specs=self._marks(derived),
            actions=transaction.actions,
            config_version=config.version,
            config=config,
            config_revision=revision,
            closes={
                node: tuple(action.index for action in pending)
                for node, pending in self.state.actions.items()
                if node not in inventory.nodes
            },
        ))  # fmt: skip
        if changes is not None and len(raw) > self.limits.entry_bytes_max:
            raise TooLarge(f"the entry would have {len(raw)} bytes; the limit is {self.limits.entry_bytes_max}")
        self._append_record(record, raw, derived, transaction.writes, growth)
        return record

    def respec(self, actor: str, nonce: str) -> RecordStruct | None:
        """Record the specs of all nodes whose derived spec differs from the recorded one; None if all are equal.

        They differ after an upgrade of the application, for example. A node whose spec cannot be derived is left out.
        """
        self.spec_deriver.rebuild(self.overlay.config, self.overlay, tolerant=True)
        derived = {node: self.spec_deriver[node] for node in self.differing_nodes()}
        if not derived:
            return None
        record, raw = self._encode(RecordStruct(
            index=self.next_index, id=f"{CONFIG_RESPEC}-{nonce}", actor=actor, time=self.now, name=CONFIG_RESPEC,
            args={}, result={"nodes": sorted(derived)}, specs=self._marks(derived), config_version=self._config_version,
        ))  # fmt: skip
        self._append_record(record, raw, derived)
        return record

    def forget(self, actor: str, nonce: str) -> RecordStruct:
        """Record a command that changes nothing. Its entry carries a new floor, so it makes replicas forget results."""
        record, raw = self._encode(RecordStruct(
            index=self.next_index, id=f"{RESULTS_FORGET}-{nonce}", actor=actor, time=self.now, name=RESULTS_FORGET,
            args={}, result=None, config_version=self._config_version,
        ))  # fmt: skip
        self._append_record(record, raw)
        return record

    def record_application(self, name: str, actor: str, nonce: str) -> RecordStruct:
        """Record that the application `name` leads. The record changes nothing else; the entry that holds it carries
        the name."""
        args: dict[str, Any] = {"name": name, "replaces": self.state.application}
        record, raw = self._encode(RecordStruct(
            index=self.next_index, id=f"{CONFIG_APPLICATION}-{nonce}", actor=actor, time=self.now,
            name=CONFIG_APPLICATION, args=args, result={"name": name}, config_version=self._config_version,
        ))  # fmt: skip
        self._append_record(record, raw)
        return record

    def differing_nodes(self) -> list[str]:
        """The nodes whose derived spec differs from the recorded one, sorted. Without those in `failed`."""
        nodes = {*self.spec_deriver.nodes, *self.state.specs} - self.spec_deriver.failed.keys()
        return sorted(node for node in nodes if self.state.spec_hash(node) != self.spec_deriver[node].hash)

    def _earlier_outcome(self, request: CommandRequest) -> CommandOutcome | None:
        """The first outcome of this id, or an error if it is unknown whether there was one; None for a new command.

        Raises IdReused if the id belongs to another command, and IdClosed if it is closed. A question raises neither.
        """
        if request.id in self._ids:
            record = self._ids[request.id]
            _check_same(request, request_digest(record.name, record.args), record.index)
            return CommandOutcome(
                request.id, record.index, copy(record.result), True, closed=record.name == COMMAND_CLOSE
            )
        remembered = self.state.ids.get(request.id)
        if remembered is not None:
            _check_same(request, remembered.digest, remembered.index)
            return CommandOutcome(
                request.id, remembered.index, remembered.result, True, result_in_journal=remembered.by_index,
                closed=is_closed(remembered.digest),
            )  # fmt: skip
        if request.after is None:
            return None
        if request.after < self.state.floor:
            return CommandOutcome(request.id, error=TooOld(
                f"command {request.id} was first sent after index {request.after}, but command ids are remembered "
                f"only from index {self.state.floor} on. It may have run before; it was not run now. Check the state"
            ))  # fmt: skip
        if request.after > self.state.index:
            return CommandOutcome(request.id, error=Conflict(
                f"command {request.id} was first sent after index {request.after}, but the store is at "
                f"{self.state.index}: it was restored from a backup; read the state again"
            ))  # fmt: skip
        return None

    def _handle(self, request: CommandRequest, transaction: Overlay) -> Json:
        try:
            if request.internal_handler is not None:
                return checked_copy(request.internal_handler(transaction), f"the result of {request.name}")
            command = self._command(request.name)
            try:
                arguments = command.arguments.model_validate(request.args)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(str(part) for part in first["loc"]) or "arguments"
                raise Invalid(f"command {request.name}: {where}: {first['msg']}") from None
            return checked_copy(command.handler(transaction, arguments), f"the result of {request.name}")
        except (NodectlError, GivenUp):
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: it fails only its command
            shown = self._without_secrets(error, request)
            self.on_fault(request.name, shown)
            what = str(shown) if shown is not error else repr(error)
            raise NodectlError(f"command {request.name} failed in the application: {what}") from shown

    def _without_secrets(self, error: BaseException, request: CommandRequest) -> BaseException:
        """The error, or one without the secret arguments that its text quotes: it goes to the log."""
        commands, fields = self.application.commands(), SecretFields(declared_fields(self.application))
        if (command := commands.get(request.name)) is not None:
            fields = fields.with_marks(marked_arguments(command.arguments))
        secrets = fields.with_marks(self.state.inventory.secret_fields).texts(request.args)
        text = repr(error)
        if (shown := without_secrets(text, secrets)) == text:
            return error
        return NodectlError(shown).with_traceback(error.__traceback__)

    def _command(self, name: str) -> Command:
        commands = self.application.commands()
        command = commands.get(name) or COMMON_COMMANDS.get(name)
        if command is None or name == COMMAND_CLOSE:
            known = sorted({*commands, *COMMON_COMMANDS, *ALONE})
            raise NotFound(f"there is no command {name!r}; there are: {', '.join(known)}")
        return command

    def _record(
        self, request: CommandRequest, result: Json, transaction: Overlay, derived: Mapping[str, DerivedSpec]
    ) -> RecordStruct:
        return RecordStruct(
            index=self.next_index, id=request.id, actor=request.actor, time=self.now, name=request.name,
            args=checked_copy(request.args, "arguments"), result=result, writes=transaction.writes,
            specs=self._marks(derived), actions=transaction.actions, closes=dict(request.closes),
            config_version=self._config_version, address=request.address, on_behalf_of=request.on_behalf_of,
        )  # fmt: skip

    @property
    def _config_version(self) -> int:
        """The version of the configuration in force before the batch. It holds for all commands of the batch, because a
        batch that adopts a configuration contains no other command."""
        adopted = self.state.adopted
        return adopted.record.version if adopted else 0

    def _check_specs(self, derived: Mapping[str, DerivedSpec]) -> None:
        for node, item in derived.items():
            if item.size_bytes > self.limits.spec_bytes_max:
                raise TooLarge(
                    f"the desired state of node {node} would have {item.size_bytes} bytes; "
                    f"the limit is {self.limits.spec_bytes_max}"
                )

    def _check_state_size(self, name: str, transaction: Overlay, specs_bytes_before: int) -> int:
        """Return by how many bytes these writes make the documents larger. TooLarge if the state exceeds its limit.

        The specs must have been derived from the transaction already. specs_bytes_before: their total size before.
        """
        growth = self._growth(transaction)
        before = self._documents_bytes + specs_bytes_before
        after = self._documents_bytes + growth + self.spec_deriver.total_bytes
        if after > max(before, self.limits.state_bytes_max):
            raise TooLarge(
                f"{name} would make the state {after} bytes large (all documents, and the desired states of all "
                f"nodes); the limit is {self.limits.state_bytes_max}, a 32nd of etcd's quota: delete documents, or "
                "raise --quota-backend-bytes of every etcd member and --etcd-quota-bytes of every masterd"
            )
        return growth

    def _growth(self, transaction: Overlay) -> int:
        """By how many bytes the transaction's writes make the documents larger; negative if smaller."""
        growth = 0
        for path, document in transaction.writes.items():
            growth += document_size(path, document) if document is not None else 0
            growth -= self._size_before(path)
        return growth

    def _size_before(self, path: str) -> int:
        if path not in self.overlay.writes:
            committed = self.state.documents.get(path)
            return 0 if committed is None else committed.size
        document = self.overlay.writes[path]
        return 0 if document is None else document_size(path, document)

    def _marks(self, derived: Mapping[str, DerivedSpec]) -> dict[str, MarkStruct | None]:
        index = self.next_index
        return {node: MarkStruct(index, item.hash) if item.spec is not None else None for node, item in derived.items()}

    def _encode(self, record: RecordStruct) -> tuple[RecordStruct, bytes]:
        """The record as replicas decode it, and as JSON. Invalid if a replica could not decode or apply it.

        The check takes the replicas' own path. An entry that fails on it would stop every standby and, after a
        takeover, every masterd; here it fails only its own command. The leader goes on with what it has decoded, so
        its state cannot differ from theirs.
        """
        try:
            raw = encode_record(record)
            decoded = decode_record(raw, f"index {record.index}")
            pending = self._prepare(decoded) if needs_preparation(decoded) else None
        except Exception as error:
            raise Invalid(
                f"command {record.name} was not run, because no replica could apply its entry: {error}"
            ) from error
        if pending is not None:
            self._check_action_views(pending, decoded.actions)
        return decoded, raw

    def _prepare(self, record: RecordStruct) -> Mapping[str, tuple[Action, ...]]:
        """Do what a replica does before it applies this record; return the pending actions that it changes."""
        images: dict[str, dict[str, Document]] = {record.restore: {}} if record.restore else {}
        return prepare_record(record, images, self.epoch, self._all_pending).pending

    def _check_action_views(self, pending: Mapping[str, tuple[Action, ...]], requested: Iterable[str]) -> None:
        """TooLarge if a view `actions/<node>` would not fit into a transaction.

        A command that only closes actions makes the view smaller, so it is never refused.
        """
        for node in requested:
            size = len(actions_view(_ANY_TERM, pending[node]))
            if size > self.limits.spec_bytes_max:
                raise TooLarge(
                    f"the pending actions of node {node} would have {size} bytes; the limit is "
                    f"{self.limits.spec_bytes_max}: wait until some have ended"
                )

    def _append_record(
        self,
        record: RecordStruct,
        raw: bytes,
        derived: Mapping[str, DerivedSpec] = MappingProxyType({}),
        writes: Mapping[str, Document | None] = MappingProxyType({}),
        growth: int = 0,
    ) -> None:
        """Add a record. derived: the specs that it changes. writes, growth: its documents, and the bytes they add."""
        self.records.append(record)
        self.encoded.append(raw)
        self.entry_bytes += len(raw)
        self._documents_bytes += growth
        self.overlay.writes.update(writes)
        if record.actions or record.closes or record.time_shift is not None:
            self.overlay.pending.update(pending_after(record, self.epoch, self._all_pending))
        self.changed_specs.update(derived)

    @property
    def pending(self) -> dict[str, tuple[Action, ...]]:
        """The pending actions after this batch, of the nodes whose actions it changed."""
        return self.overlay.pending

    @property
    def _all_pending(self) -> Mapping[str, tuple[Action, ...]]:
        """The pending actions of all nodes, those of the batch included."""
        return ChainMap(self.overlay.pending, self.state.actions)

    def rebuild_specs(self, *, tolerant: bool = False, before_each: Callable[[], None] = lambda: None) -> None:
        """Derive the specs of all nodes from the overlay, and record which documents each one reads.

        tolerant, before_each: see SpecDeriver.
        """
        self.spec_deriver.rebuild(self.overlay.config, self.overlay, tolerant=tolerant, before_each=before_each)

    def undo_derivation(self) -> None:
        """Derive all specs from the committed state again, after this batch was not committed."""
        committed = Overlay(self.state, self.state.inventory, self.now)
        self.spec_deriver.rebuild(self.state.inventory, committed, tolerant=True)


def _check_texts(request: CommandRequest) -> None:
    """Invalid if a text of the request is longer than its limit. Also for commands that masterd submits itself."""
    check_text(request.id, "the command's id", COMMAND_ID_BYTES_MAX)
    check_text(request.name, "the command's name", COMMAND_NAME_BYTES_MAX)
    check_text(request.actor, "actor", ACTOR_BYTES_MAX)


def _inventory(config: ConfigRecord) -> Inventory:
    return Inventory.model_validate(checked_copy(config.model_dump(), "configuration")["inventory"])


def _check_same(request: CommandRequest, first: bytes | None, index: int) -> None:
    """IdClosed or IdReused if the id does not belong to this request. A question may be for an id of any command.

    first: the digest of the request that used the id first, at `index`.
    """
    if request.asks_outcome:
        return
    if is_closed(first):
        raise IdClosed(
            f"command {request.id} has not taken effect, and never will: its id was closed at index {index}, because "
            "its outcome was asked for while no command had used it; if it is still wanted, send it with a new id"
        )
    args = checked_copy(request.args, "arguments")  # as they are in the journal: a tuple became a list
    check_same_request(request.id, first, request.name, args, index)
