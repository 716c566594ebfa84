"""Entries are read by hand or by the model, and come out the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodestore.errors import Garbage
from nodestore.schema.entry_codec import check_record, decode_entry, decode_fast
from nodestore.schema.models import SCHEMA_VERSION, Entry, decode
from nodestore.support.jsonio import dumps


def record(index: int = 7, **more: Any) -> dict[str, Any]:
    return {
        "index": index, "id": f"c-{index}", "actor": "ann", "time": 12.5, "name": "node.set", "args": {"node": "n1"},
        "result": {"ok": True}, "writes": {"nodes/n1": {"text": "a"}, "nodes/n2": None},
        "specs": {"n1": {"generation": index, "hash": "ab"}, "n2": None}, "config_version": 3, **more,
    }  # fmt: skip


def entry(*records: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"v": 1, "epoch": 1, "term": 9, "nonce": "n", "commands": list(records), **more}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in record().items() if key != name}


def test_what_leaders_write_is_read_by_hand() -> None:
    """An entry with the fields that a leader writes needs no model, and equals what the model makes of it."""
    raw = dumps(entry(record(7), record(8), without("writes") | {"index": 9}))
    assert decode_fast(raw) is not None
    read = decode_entry(raw, "journal/9")
    assert read == decode(Entry, raw, "journal/9")
    assert (read.first, read.last) == (7, 9)


_SCALARS = st.none() | st.booleans() | st.integers(-3, 9) | st.just(1.5) | st.sampled_from(["", "a", "7", "1e3"])
_ANY = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
    st.sampled_from(["generation", "hash", "name", "args", "n1"]), inner, max_size=3), max_leaves=5)  # fmt: skip
_FIELDS = st.sampled_from([
    "v", "epoch", "term", "nonce", "commands", "index", "id", "actor", "time", "name", "args", "result", "writes",
    "specs", "actions", "closes", "config_version", "config", "config_revision", "restore", "unknown",
])  # fmt: skip


def outcome(read: Any, raw: bytes) -> Any:
    try:
        found = read(raw)
    except Garbage as error:
        return str(error)
    return found, [command.model_dump() for command in found.commands], found.model_extra


@given(_FIELDS, _ANY, st.booleans(), st.booleans())
def test_both_ways_agree(field: str, value: Any, of_entry: bool, removed: bool) -> None:
    """Whatever a field holds, or when it is missing, reading gives what the model alone gives, or its complaint."""
    one, two = record(7), record(8)
    whole = entry(one, two)
    target = whole if of_entry else two
    if removed:
        target.pop(field, None)
    else:
        target[field] = value
    raw = dumps(whole)
    assert outcome(lambda raw: decode_entry(raw, "k"), raw) == outcome(lambda raw: decode(Entry, raw, "k"), raw)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", dumps(entry()), dumps(entry(record(7), record(9)))])
def test_garbage_is_told(raw: bytes) -> None:
    """What is no entry is Garbage that names the key."""
    with pytest.raises(Garbage, match="journal/9"):
        decode_entry(raw, "journal/9")


def test_the_check_of_a_record_takes_what_the_decoder_takes() -> None:
    """A usual record is not built; one with other fields is; what the decoder refuses is refused."""
    usual = {"index": 1, "id": "a", "actor": "x", "time": 1.0, "name": "n", "args": {}, "result": None}
    assert check_record(dumps(usual), "here") is None
    unusual = check_record(dumps({**usual, "closes": {"n1": [3]}}), "here")
    assert unusual is not None
    assert unusual.closes == {"n1": (3,)}
    for broken in ({**usual, "index": 0}, {**usual, "writes": {"p": 5}}, {**usual, "config": {"version": "x"}}):
        with pytest.raises(Garbage, match="here"):
            check_record(dumps(broken), "here")
    with pytest.raises(Garbage, match="here"):
        check_record(b"{", "here")


def test_an_entry_of_a_newer_version_is_refused() -> None:
    """Its fields may mean something else, even if it has the form that this version writes."""
    with pytest.raises(Garbage, match="upgrade it"):
        decode_entry(dumps(entry(record(), v=SCHEMA_VERSION + 1)), "journal/7")
