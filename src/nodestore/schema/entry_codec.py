"""Decodes journal entries, with a fast path for the form that leaders write.

A standby would spend most of its time for a command on validation by the model. So an entry that has exactly the
fields and types that a leader writes is built without validation. Every other entry is validated by the model, which
accepts other valid forms and raises Garbage for the rest. Both paths give the same entry.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from nodestore.errors import Garbage
from nodestore.schema.models import SCHEMA_VERSION, CommandRecord, Entry, SpecMark, decode

_ENTRY_FIELDS = {"v", "epoch", "term", "nonce", "commands"}
_REQUIRED_FIELDS = {"index", "id", "actor", "time", "name", "args", "result"}
_RECORD_FIELDS = {*_REQUIRED_FIELDS, "writes", "specs", "config_version"}
_MARK_FIELDS = {"generation", "hash"}


def decode_entry(raw: bytes, where: str) -> Entry:
    """The entry in `raw`. Garbage if it is invalid, with `where` and the first problem."""
    return decode_fast(raw) or decode(Entry, raw, where)


def check_record(raw: bytes, where: str) -> CommandRecord | None:
    """Check that the record in `raw` can be decoded within an entry. Garbage if it cannot.

    None if it has the form of nearly all records, in which every value is plain: such a record can also be applied, and
    building it would take longer than the check. Otherwise the record.
    """
    try:
        if _has_usual_form(from_json(raw, allow_inf_nan=False)):
            return None
    except ValueError as error:
        raise Garbage(f"{where}: {error}") from None
    return decode(CommandRecord, raw, where)


def decode_fast(raw: bytes) -> Entry | None:
    """The entry, if it has the form in which leaders write nearly all entries; else None."""
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError:
        return None
    if type(value) is not dict or value.keys() - {"floor"} != _ENTRY_FIELDS:
        return None
    floor = value.setdefault("floor", None)
    if floor is not None and (type(floor) is not int or floor < 0):
        return None
    commands = value["commands"]
    numbers = type(value["v"]) is int and type(value["epoch"]) is int and type(value["term"]) is int
    if not numbers or value["v"] > SCHEMA_VERSION or type(value["nonce"]) is not str or type(commands) is not list:
        return None
    records: list[CommandRecord] = []
    for item in commands:
        record = _decode_record_fast(item)
        if record is None or (records and record.index != records[-1].index + 1):
            return None
        records.append(record)
    if not records:
        return None
    value["commands"] = tuple(records)
    value["application"] = None
    return Entry.build_unchecked(value)


def _decode_record_fast(item: Any) -> CommandRecord | None:
    """The record in `item`; None if `item` has another form.

    The record shares the dictionaries of `item`. This function may change them.
    """
    if not _has_usual_form(item):
        return None
    if item.keys() != _RECORD_FIELDS:  # empty fields are omitted
        item = {**item, "writes": item.get("writes", {}), "specs": item.get("specs", {})}
        item.setdefault("config_version", 0)
    specs = item["specs"]
    for node, mark in specs.items():
        if mark is not None:
            specs[node] = SpecMark.build_unchecked(mark)
    item["actions"], item["closes"], item["config"], item["config_revision"], item["restore"] = {}, {}, None, None, None
    item["time_shift"] = None
    return CommandRecord.build_unchecked(item)


def _has_usual_form(item: Any) -> bool:
    """Whether `item` has exactly the fields and types with which leaders write nearly all records."""
    if type(item) is not dict:
        return False
    if item.keys() != _RECORD_FIELDS and not (item.keys() >= _REQUIRED_FIELDS and item.keys() <= _RECORD_FIELDS):
        return False
    texts = type(item["id"]) is str and type(item["actor"]) is str and type(item["name"]) is str
    if not texts or type(item["index"]) is not int or item["index"] < 1 or type(item["time"]) is not float:
        return False
    if type(item["args"]) is not dict or type(item.get("config_version", 0)) is not int:
        return False
    return _are_valid_writes(item.get("writes", {})) and _are_valid_marks(item.get("specs", {}))


def _are_valid_writes(writes: Any) -> bool:
    if type(writes) is not dict:
        return False
    return all(document is None or type(document) is dict for document in writes.values())


def _are_valid_marks(specs: Any) -> bool:
    if type(specs) is not dict:
        return False
    for mark in specs.values():
        if mark is None:
            continue
        if type(mark) is not dict or mark.keys() != _MARK_FIELDS:
            return False
        if type(mark["generation"]) is not int or type(mark["hash"]) is not str:
            return False
    return True
