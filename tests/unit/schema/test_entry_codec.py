"""Entries are decoded as structs or by the model, and come out the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodestore.errors import Garbage
from nodestore.schema import records
from nodestore.schema.entry_codec import decode_entry, decode_fast, decode_record, encode_entry, encode_record
from nodestore.schema.models import SCHEMA_VERSION, ActionRequest, CommandRecord, ConfigRecord, Entry, SpecMark, decode
from nodestore.schema.records import EntryStruct, JournalEntry, MarkStruct, RecordStruct, record_fields, with_commands
from nodestore.support.jsonio import dumps

BARE = {"index": 7, "id": "c-7", "actor": "ann", "time": 12.5, "name": "node.set", "args": {}, "result": None}
CONFIG = {"version": 3, "actor": "ann", "time": 1.5, "inventory": {"nodes": {"n1": {}}}, "source": "nodes: {n1: {}}"}
FULL = {
    **BARE, "args": {"node": "n1"}, "result": {"ok": True}, "writes": {"nodes/n1": {"text": "a"}, "nodes/n2": None},
    "specs": {"n1": {"generation": 7, "hash": "ab"}, "n2": None}, "config_version": 3,
    "actions": {"n1": {"name": "restart", "args": {"hard": 1}, "expires": 9.5}}, "closes": {"n1": [3, 4], "n2": []},
    "config": CONFIG, "config_revision": 12, "restore": "s-1", "time_shift": -2.5, "address": "10.0.0.7",
    "on_behalf_of": "eve",
}  # fmt: skip


def record(index: int = 7, **more: Any) -> dict[str, Any]:
    return {**FULL, "index": index, "id": f"c-{index}", **more}


def entry(*records: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"v": 1, "epoch": 1, "term": 9, "nonce": "n", "commands": list(records), **more}


def texts_of(found: JournalEntry) -> list[str]:
    """All fields of an entry as JSON, so that 1, 1.0 and true differ."""
    records = [record_fields(command) for command in found.commands]
    extra = found.model_extra if isinstance(found, Entry) else {}
    own = [found.v, found.epoch, found.term, found.nonce, found.floor, found.application, extra]
    return [json.dumps(part, sort_keys=True) for part in (own, *records)]


def outcome(read: Callable[[bytes], JournalEntry], raw: bytes) -> list[str]:
    try:
        return texts_of(read(raw))
    except Garbage as error:
        return [str(error)]


def by_codec(raw: bytes) -> JournalEntry:
    return decode_entry(raw, "k")


def by_model(raw: bytes) -> JournalEntry:
    return decode(Entry, raw, "k")


def test_what_leaders_write_fits_the_structs() -> None:
    """An entry with any field that a leader writes needs no model, and equals what the model makes of it."""
    raw = dumps(entry(record(7), record(8), {**BARE, "index": 9}, floor=3, application="scenes"))
    found = decode_fast(raw)
    assert found is not None
    assert (found.first, found.last) == (7, 9)
    assert texts_of(found) == texts_of(by_model(raw))


_NUMBERS = st.integers(-3, 9) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_SCALARS = st.none() | st.booleans() | _NUMBERS | st.sampled_from(["", "a", "7", "1e3", "n1", "é\u2028\x00"])
_ANY = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
    st.sampled_from(["generation", "hash", "name", "args", "n1", "version", "é"]), inner, max_size=3),
    max_leaves=5)  # fmt: skip
_PLACES = st.sampled_from([
    *((field,) for field in ("v", "epoch", "term", "nonce", "commands", "floor", "application", "unknown")),
    *(("commands", 1, field) for field in (*FULL, "unknown")),
    *(("commands", 1, "specs", "n1", field) for field in ("generation", "hash", "unknown")),
    *(("commands", 1, "actions", "n1", field) for field in ("name", "args", "expires", "unknown")),
    *(("commands", 1, "config", field) for field in (*CONFIG, "v", "unknown")),
    *(("commands", 1, field, "n1") for field in ("args", "result", "writes", "specs", "actions", "closes")),
    ("commands", 1, "writes", "nodes/n1", "text"),
])  # fmt: skip


@given(_PLACES, _ANY, st.booleans())
def test_both_ways_agree(place: tuple[Any, ...], value: Any, removed: bool) -> None:
    """Whatever a field holds, or if it is missing, the codec gives what the model gives, or its message."""
    whole = json.loads(dumps(entry(record(7), record(8), floor=1)))
    target: Any = whole
    for step in place[:-1]:
        target = target[step]
    if removed:
        target.pop(place[-1], None)
    else:
        target[place[-1]] = value
    raw = json.dumps(whole).encode()
    assert outcome(by_codec, raw) == outcome(by_model, raw)


_DOCUMENTS = st.dictionaries(st.text(max_size=3), _ANY, max_size=3)
_TIMES = st.floats(allow_nan=False, allow_infinity=False)
_INDEXES = st.integers(1, 1 << 62)
_RECORDS = st.builds(
    RecordStruct, index=_INDEXES, id=st.text(max_size=5), actor=st.text(max_size=5), time=_TIMES,
    name=st.text(max_size=5), args=_DOCUMENTS, result=_ANY,
    writes=st.dictionaries(st.text(max_size=3), st.none() | _DOCUMENTS, max_size=2),
    specs=st.dictionaries(st.text(max_size=3), st.none() | st.builds(MarkStruct, _INDEXES, st.text()), max_size=2),
    actions=st.dictionaries(
        st.text(max_size=3), st.builds(ActionRequest, name=st.text(), args=_DOCUMENTS, expires=_TIMES), max_size=2
    ),
    closes=st.dictionaries(st.text(max_size=3), st.lists(_INDEXES, max_size=2).map(tuple), max_size=2),
    config_version=st.integers(0, 1 << 62),
    config=st.none() | st.builds(ConfigRecord, version=st.integers(1), actor=st.text(), time=_TIMES,
                                 inventory=_DOCUMENTS),
    config_revision=st.none() | _INDEXES, restore=st.none() | st.text(), time_shift=st.none() | _TIMES,
    address=st.text(max_size=5), on_behalf_of=st.text(max_size=5),
)  # fmt: skip


@given(_RECORDS, st.none() | st.integers(0, 1 << 62), st.none() | st.text(max_size=3))
def test_what_is_encoded_is_decoded_the_same_both_ways(
    made: RecordStruct, floor: int | None, application: str | None
) -> None:
    """Over all optional fields: the model of any release and the structs read exactly what was encoded."""
    raw = encode_entry(1, 9, "n", [encode_record(made)], floor, application)
    read, modelled = decode_fast(raw), by_model(raw)
    assert read is not None
    assert read.commands == (made,)
    assert decode_record(encode_record(made), "k") == made
    assert texts_of(read) == texts_of(modelled)
    assert (modelled.floor, modelled.application) == (floor, application)


@pytest.mark.parametrize(
    "value",
    [
        b"1e999", b"-1e999", b"NaN", b"Infinity", b"01", b"1.", b"-0", b"1e16", b"1e-7", b"18446744073709551616",
        b"9" * 300, b"9" * 5_000, b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xed\xa0\x80"', b'"\xff"', b'"\x01"',
        b'"\\u0000"',
        b'{"a":1,"b":2,"a":3}', b'{"a":1,"\\u0061":2}', b"[" * 60 + b"]" * 60, b"[" * 190 + b"]" * 190,
        b"[" * 205 + b"]" * 205, b'{"a":' * 400 + b"1" + b"}" * 400, b"[" * 3_000 + b"]" * 3_000,
        b"[" + b"[1]," * 500 + b"[]]", b'"' + b"[{" * 500 + b'"',
    ],
    ids=lambda raw: raw[:20],
)  # fmt: skip
def test_what_parsers_disagree_about_is_decoded_as_by_the_model(value: bytes) -> None:
    """Numbers without bounds, half of a surrogate pair, names that occur twice, deep nesting."""
    for place in ("args", "result", "writes", "time"):
        text = {"args": b'{"x":%s}', "writes": b'{"p":{"x":%s}}'}.get(place, b"%s") % value
        changed = dumps({**BARE, place: "HERE"}).replace(b'"HERE"', text)
        raw = b'{"v":1,"epoch":1,"term":9,"nonce":"n","commands":[' + changed + b"]}"
        assert outcome(by_codec, raw) == outcome(by_model, raw), place


@pytest.mark.parametrize("field", ["index", "id", "specs", "nonce", "term", "v"])
def test_a_field_that_occurs_twice_counts_as_by_the_model(field: str) -> None:
    """The last one counts."""
    whole = entry(record(7))
    value = dumps((whole if field in whole else FULL)[field])
    second = {"index": b"8", "id": b'"other"', "specs": b"{}", "nonce": b'"o"', "term": b"10", "v": b"2"}[field]
    raw = dumps(whole).replace(b'"%s":%s' % (field.encode(), value), b'"%s":%s,"%s":%s' % (
        field.encode(), value, field.encode(), second), 1)  # fmt: skip
    assert outcome(by_codec, raw) == outcome(by_model, raw)


@pytest.mark.parametrize("place", [(), ("commands", 0), ("commands", 0, "specs", "n1")])
def test_an_unknown_field_is_kept(place: tuple[Any, ...]) -> None:
    """A newer release may have added it, to the entry or to anything in it. No struct drops it silently."""
    whole = json.loads(dumps(entry(record(7))))
    target = whole
    for step in place:
        target = target[step]
    target["later"] = 1
    raw = dumps(whole)
    assert decode_fast(raw) is None
    found = by_codec(raw)
    assert isinstance(found, Entry)
    assert b'"later":1' in found.encode()


def test_structs_have_the_fields_of_their_models() -> None:
    """A field of the model alone would make every entry that has it slow; one of the struct alone would be lost."""
    for struct, model in ((MarkStruct, SpecMark), (RecordStruct, CommandRecord), (EntryStruct, Entry)):
        assert set(struct.__struct_fields__) == set(model.model_fields)


def test_every_struct_refuses_unknown_fields() -> None:
    structs = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    assert {MarkStruct, RecordStruct, EntryStruct} <= set(structs)
    for struct in structs:
        assert struct is msgspec.Struct or struct.__struct_config__.forbid_unknown_fields, struct


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", dumps(entry()), dumps(entry(record(7), record(9)))])
def test_garbage_is_reported(raw: bytes) -> None:
    """What is no entry is Garbage that names the key."""
    with pytest.raises(Garbage, match="journal/9"):
        decode_entry(raw, "journal/9")


def test_a_record_that_no_leader_writes_is_refused() -> None:
    """A leader checks its own records with the struct alone."""
    assert decode_record(dumps(FULL), "here") == by_codec(dumps(entry(FULL))).commands[0]
    for broken in ({"index": 0}, {"writes": {"p": 5}}, {"config": {"version": "x"}}, {"later": 1}, {"time": None}):
        with pytest.raises(Garbage, match="here"):
            decode_record(dumps({**FULL, **broken}), "here")
    with pytest.raises(Garbage, match="here"):
        decode_record(b"{", "here")


def test_an_entry_of_a_newer_version_is_refused() -> None:
    """Its fields may mean something else, even if it has the form that this version writes."""
    with pytest.raises(Garbage, match="upgrade it"):
        decode_entry(dumps(entry(record(), v=SCHEMA_VERSION + 1)), "journal/7")


@pytest.mark.parametrize("more", [{}, {"later": 1}])
def test_a_part_of_an_entry(more: dict[str, Any]) -> None:
    """Of either kind."""
    whole = by_codec(dumps(entry(record(7), record(8), **more)))
    part = with_commands(whole, whole.commands[1:])
    assert (part.first, part.last, part.nonce) == (8, 8, "n")
    assert type(part) is type(whole)
