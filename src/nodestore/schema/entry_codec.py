"""Decodes and encodes journal entries: as structs, and by the model if an entry does not fit them.

A standby would spend most of its time for a command on validation by the model. Both ways give the same entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from pydantic import BaseModel

from nodestore.errors import Garbage
from nodestore.schema.models import SCHEMA_VERSION, CommandRecord, Entry, decode
from nodestore.schema.records import EntryStruct, JournalEntry, RecordStruct
from nodestore.support.jsonio import Json, is_nested_within

_LEVELS_MAX = 200
"""How deep the values in an entry may be nested: the limit of the model's parser."""

S = TypeVar("S", bound=Struct)


def decode_entry(raw: bytes, where: str) -> JournalEntry:
    """The entry in `raw`. Garbage if it is invalid, with `where` and the first problem."""
    return decode_fast(raw) or decode(Entry, raw, where)


def decode_fast(raw: bytes) -> EntryStruct | None:
    """The entry, if it fits the structs, as nearly all entries do; else None."""
    entry = _decode_struct(_ENTRIES, raw)
    if entry is None or entry.v > SCHEMA_VERSION or not entry.commands:
        return None
    following = entry.commands[0].index
    for record in entry.commands:
        if record.index != following:
            return None
        following += 1
    return entry


def decode_record(raw: bytes, where: str) -> RecordStruct:
    """The record in `raw`, as replicas decode it within an entry. Garbage if it does not fit the struct."""
    record = _decode_struct(_RECORDS, raw)
    if record is not None:
        return record
    decode(CommandRecord, raw, where)  # for its message
    raise Garbage(f"{where}: the record has a form that no leader writes")


def encode_record(record: RecordStruct) -> bytes:
    """The record as JSON, without empty fields."""
    return _ENCODER.encode(record)


def encode_entry(
    epoch: int,
    term: int,
    nonce: str,
    encoded: Sequence[bytes],
    floor: int | None = None,
    application: str | None = None,
) -> bytes:
    """The journal entry with these encoded records, as JSON. floor, application: see `models.Entry`."""
    entry = EntryStruct(
        v=SCHEMA_VERSION, epoch=epoch, term=term, nonce=nonce, floor=floor, application=application, commands=()
    )
    return _ENCODER.encode(entry).removesuffix(b"]}") + b",".join(encoded) + b"]}"


def _decode_struct(decoder: msgspec.json.Decoder[S], raw: bytes) -> S | None:
    try:
        decoded = decoder.decode(raw)
    except (ValueError, RecursionError):  # every error of msgspec, and of a model, is a ValueError
        return None
    return decoded if is_nested_within(raw, _LEVELS_MAX) else None


def _load_model(kind: type[Any], value: Json) -> Any:
    return kind.model_validate(value)


def _dump_model(model: BaseModel) -> Json:
    return model.model_dump()


_ENTRIES = msgspec.json.Decoder(EntryStruct, dec_hook=_load_model)
_RECORDS = msgspec.json.Decoder(RecordStruct, dec_hook=_load_model)
_ENCODER = msgspec.json.Encoder(enc_hook=_dump_model)
