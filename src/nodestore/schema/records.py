"""The structs in which journal entries are decoded, held in memory and encoded.

They have the fields of the models `Entry`, `CommandRecord` and `SpecMark`, and msgspec reads them five times as fast.
A model takes more forms than a struct, and keeps unknown fields. So an entry that does not fit the structs is decoded
by its model (see `entry_codec`), and whoever reads an entry takes both: `JournalEntry` and `JournalRecord`.

Every struct refuses unknown fields. Otherwise a field that a newer release has added would be lost without a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct
from pydantic import BaseModel

from nodestore.schema.models import ActionRequest, CommandRecord, ConfigRecord, Entry, SpecMark
from nodestore.support.jsonio import Document, Json

# gc=False: the collector does not visit them, and JSON has no cycles that it would have to find.


class MarkStruct(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `models.SpecMark`."""

    generation: int
    hash: str

    @classmethod
    def of(cls, mark: SpecMark | MarkStruct) -> MarkStruct:
        """`mark` as a struct."""
        return mark if isinstance(mark, MarkStruct) else cls(mark.generation, mark.hash)


class RecordStruct(Struct, kw_only=True, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """See `models.CommandRecord`. `args` and `result` have no default, because leaders always write them."""

    index: Annotated[int, Meta(ge=1)]
    id: str
    actor: str
    time: float
    name: str
    args: dict[str, Any]
    result: Any
    writes: dict[str, dict[str, Any] | None] = {}
    specs: dict[str, MarkStruct | None] = {}
    actions: dict[str, ActionRequest] = {}
    closes: dict[str, tuple[int, ...]] = {}
    config_version: int = 0
    config: ConfigRecord | None = None
    config_revision: int | None = None
    restore: str | None = None
    time_shift: float | None = None
    address: str = ""
    on_behalf_of: str = ""


class EntryStruct(Struct, kw_only=True, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """See `models.Entry`."""

    v: int
    epoch: int
    term: int
    nonce: str
    floor: Annotated[int, Meta(ge=0)] | None = None
    application: str | None = None
    commands: tuple[RecordStruct, ...]

    @property
    def first(self) -> int:
        return self.commands[0].index

    @property
    def last(self) -> int:
        return self.commands[-1].index


JournalRecord: TypeAlias = RecordStruct | CommandRecord
JournalEntry: TypeAlias = EntryStruct | Entry


def with_commands(entry: JournalEntry, commands: Sequence[JournalRecord]) -> JournalEntry:
    """`entry` with only these of its commands."""
    if isinstance(entry, EntryStruct):
        return msgspec.structs.replace(entry, commands=tuple(commands))
    return entry.model_copy(update={"commands": tuple(commands)})


def record_fields(record: JournalRecord) -> Document:
    """The record as JSON, without the fields that have their default value."""
    if isinstance(record, CommandRecord):
        return record.model_dump(mode="json", exclude_defaults=True)
    fields: Document = msgspec.to_builtins(record, enc_hook=_dump_without_defaults)
    if not record.args:
        del fields["args"]
    if record.result is None:
        del fields["result"]
    return fields


def _dump_without_defaults(model: BaseModel) -> Json:
    return model.model_dump(mode="json", exclude_defaults=True)
