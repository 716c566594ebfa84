"""The models of the keys: they round-trip, keep unknown fields, and report what is invalid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nodestore.errors import Garbage
from nodestore.etcd.session import KV
from nodestore.schema.models import (
    MODELS,
    Answer,
    Applied,
    Candidate,
    CommandRecord,
    ConfigRecord,
    Desired,
    Entry,
    Epoch,
    Head,
    Inventory,
    LeaderRecord,
    Paused,
    Spec,
    SpecMark,
    Status,
    Stored,
    Term,
    decode,
    decode_or_none,
    nonce_of,
)
from nodestore.support import jsonio

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(TEXTS, JSON, max_size=4)


def command(index: int, **fields: Any) -> CommandRecord:
    return CommandRecord(index=index, id=f"c-{index}", actor="me", time=1.5, name="node.set", **fields)


def entry(*commands: CommandRecord) -> Entry:
    return Entry(epoch=1, term=7, nonce="ab", commands=commands)


SAMPLES: list[Stored] = [
    Epoch(epoch=3),
    LeaderRecord(
        id="m1", host="pc-1", urls=("http://pc-1:8401",), nonce="ab", since=1.0, why="m2 — „Müller“ — is gone"
    ),
    Candidate(id="m1", host="pc-1", urls=(), nonce="ab"),
    Paused(actor="me", time=1.0, reason="Umbau, 日本"),
    Head(index=0, nonce="ab"),
    entry(command(1, writes={"nodes/ä/1": {"text": "日本 🎉"}, "gone": None}, result=[1, "x"])),
    entry(command(4), command(5, specs={"n1": SpecMark(generation=5, hash="0"), "n2": None}, restore="s")),
    Applied(index=5, base=4, through="/nodectl/wall/state/a"),
    Desired(epoch=1, term=2, generation=3, spec=Spec(driver="process", document={"url": None})),
    Status(node="n1", nonce="ab", host="pc", phase="ready", actual={"pid": 3}),
    ConfigRecord(version=1, actor="me", time=0.0, inventory={"nodes": {}}, source="# Kommentar\nnodes: {}\n"),
    Inventory.model_validate({"nodes": {"n1": {"position": [0, 1], "labels": {"row": "0"}}}, "groups": {"g": {}}}),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_model_reads_back_as_it_was_written(sample: Stored) -> None:
    """Through the bytes that stand in etcd; those are JSON with a schema version."""
    raw = sample.encode()
    assert decode(type(sample), raw, "/k") == sample
    assert json.loads(raw)["v"] == 1


@given(args=DOCUMENTS, writes=st.dictionaries(TEXTS, st.none() | DOCUMENTS, max_size=3), result=JSON)
def test_any_json_survives_the_journal(args: dict[str, Any], writes: dict[str, Any], result: Any) -> None:
    """Unicode, big integers, floats, deep values: a replica reads exactly what the leader had."""
    written = entry(command(1, args=args, writes=writes, result=result))
    read = decode(Entry, written.encode(), "/k").commands[0]
    assert (read.args, read.writes, read.result) == (args, writes, result)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_unknown_fields_are_kept(sample: Stored) -> None:
    """An older program passes on what a newer one wrote, inside nested models too."""
    value = json.loads(sample.encode()) | {"invented_later": {"deep": [1, "ü"]}}
    passed_on = json.loads(decode(type(sample), json.dumps(value), "/k").encode())
    assert passed_on["invented_later"] == {"deep": [1, "ü"]}


def test_unknown_fields_are_kept_in_parts() -> None:
    value = json.loads(entry(command(1)).encode())
    value["commands"][0]["later"] = 1
    assert json.loads(decode(Entry, json.dumps(value), "/k").encode())["commands"][0]["later"] == 1


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_newer_schema_is_refused_with_a_clear_line(model: type[Stored]) -> None:
    """Not with whatever else a reader of today would find wrong in it."""
    with pytest.raises(Garbage, match=r"/k: .*schema version 2, this program reads up to 1: upgrade it") as caught:
        decode(model, b'{"v": 2, "shape": "unheard of"}', "/k")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"null", "object"),
        (b"[]", "object"),
        (b'"epoch"', "object"),
        (b"{}", "epoch: Field required"),
        (b'{"epoch": "one"}', "epoch: "),
        (b'{"epoch": 0}', "epoch: .*greater than or equal to 1"),
        (b'{"v": "9", "epoch": 1}', "v: "),
        (b'{"v": null, "epoch": 1}', "v: "),
    ],
)
def test_garbage_is_named(raw: bytes, says: str) -> None:
    """One line with the key and the first thing that is wrong with its value."""
    with pytest.raises(Garbage, match=f"^/nodectl/wall/epoch: .*{says}") as caught:
        decode(Epoch, raw, "/nodectl/wall/epoch")
    assert "\n" not in str(caught.value)


def test_garbage_counts_the_rest() -> None:
    with pytest.raises(Garbage, match=r"index: Field required \(and 1 more\)"):
        decode(Head, b"{}", "/k")


def test_models_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Head(index=1, nonce="a").index = 2


def test_every_model_has_a_schema() -> None:
    """Published as JSON Schema, each with its version."""
    for model in MODELS:
        assert "v" in model.model_json_schema()["properties"]


def test_the_indexes_of_an_entry_have_no_gap() -> None:
    """An entry is named by its last index, so the others must follow from it."""
    assert (entry(command(4), command(5)).first, entry(command(4), command(5)).last) == (4, 5)
    for wrong in ((command(4), command(6)), (command(4), command(4)), ()):
        with pytest.raises(ValidationError):
            entry(*wrong)


def test_terms_and_orders_compare_as_pairs() -> None:
    """The epoch first: what was written before a backup was restored is older, whatever its revision."""
    assert Term(2, 1) > Term(1, 99)
    assert str(Term(1, 42)) == "1.42"
    low, high = (Desired(epoch=e, term=t, generation=g, spec=Spec(driver="d")) for e, t, g in ((1, 9, 9), (2, 1, 1)))
    assert low.order < high.order


@pytest.mark.parametrize(
    ("inventory", "says"),
    [
        (
            {"nodes": {"a": {"position": [0, 0]}, "b": {"position": [0, 0]}}},
            r"nodes a and b both have position \[0, 0\]",
        ),
        ({"groups": {"g": {"nodes": ["nobody"]}}}, "group g names node nobody"),
        ({"masters": {"m": {"priority": 101}}}, "masters.m.priority"),
        ({"nodes": {"a": {"position": [1]}}}, "nodes.a.position"),
        ({"nodes": {"../up": {}}}, "node name '../up' is not allowed: use 1 to 63 letters"),
        ({"masters": {"a/b": {}}}, "master name 'a/b' is not allowed"),
        ({"groups": {"": {}}}, "group name '' is not allowed"),
    ],
)
def test_an_inventory_must_be_consistent(inventory: dict[str, Any], says: str) -> None:
    with pytest.raises(Garbage, match=says):
        decode(Inventory, json.dumps(inventory), "/k")


def test_an_inventory_that_was_committed_is_read_whatever_its_names() -> None:
    """All else is checked as ever."""
    names = {"masters": {"a/b": {}}, "nodes": {"../up": {}}, "groups": {"": {"nodes": ["../up"]}}}
    inventory = Inventory.without_name_check(names)
    assert inventory.members_of("") == ("../up",)
    with pytest.raises(ValidationError, match="names node nobody"):
        Inventory.without_name_check({"groups": {"a/b": {"nodes": ["nobody"]}}})
    with pytest.raises(ValidationError, match="is not allowed"):
        Inventory.model_validate(inventory.model_dump())


def test_members_of_a_group() -> None:
    """Members are selected by labels or names, in the inventory's order.

    `all` selects every node, an empty match none.
    """
    inventory = Inventory.model_validate(
        {
            "nodes": {
                "n3": {"labels": {"row": "0", "side": "left"}},
                "n1": {"labels": {"row": "0"}},
                "n2": {},
            },
            "groups": {
                "row": {"match": {"row": "0"}},
                "left": {"match": {"row": "0", "side": "left"}},
                "both": {"match": {"side": "left"}, "nodes": ["n2"]},
                "empty": {},
            },
        }
    )
    assert inventory.members_of("all") == ("n3", "n1", "n2")
    assert inventory.members_of("row") == ("n3", "n1")
    assert inventory.members_of("left") == ("n3",)
    assert inventory.members_of("both") == ("n3", "n2")
    assert inventory.members_of("empty") == ()
    with pytest.raises(KeyError):
        inventory.members_of("nobody")


# --- jsonio ---------------------------------------------------------------------------------------------------------


@given(JSON)
def test_json_reads_back(value: Any) -> None:
    assert jsonio.loads(jsonio.dumps(value)) == value
    assert jsonio.loads(jsonio.canonical(value)) == value


@given(JSON)
def test_a_copy_is_equal_and_apart(value: Any) -> None:
    """Changing the copy, at any depth, leaves the original alone."""
    before = jsonio.canonical(value)
    copied = jsonio.copy(value)
    assert copied == value
    _spoil(copied)
    assert jsonio.canonical(value) == before


def _spoil(value: Any) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _spoil(item)
        value["spoilt"] = True
    elif isinstance(value, list):
        for item in value:
            _spoil(item)
        value.append("spoilt")


def test_the_digest_is_of_the_value_not_of_its_spelling() -> None:
    """The order of keys does not matter; the order of a list and the type of a value do."""
    assert jsonio.digest({"a": 1, "b": [1, 2]}) == jsonio.digest(jsonio.loads('{ "b":[1,2] , "a":1 }'))
    assert jsonio.digest({"a": [1, 2]}) != jsonio.digest({"a": [2, 1]})
    assert jsonio.digest({"a": 1}) != jsonio.digest({"a": "1"})
    assert jsonio.digest({}) == "44136fa355b3678a"


@pytest.mark.parametrize(
    "raw", [b"", b"nul", b"\xff", b'"\\ud800"', b"NaN", b'{"a": -Infinity}', b"[" * 1000, b"1" * 5000, b"{} x"]
)
def test_what_is_no_json_is_garbage(raw: bytes) -> None:
    """Other languages' parsers are asked to read what we store, so nothing that only Python takes gets in."""
    with pytest.raises(Garbage, match="the request is not JSON"):
        jsonio.loads(raw, "the request")


def test_a_number_too_large_to_be_finite_has_no_digest() -> None:
    """It reads as infinite; what cannot be spelt cannot be compared, and that is no crash."""
    with pytest.raises(Garbage):
        jsonio.digest(jsonio.loads(b"1e999"))


def _kv(value: bytes) -> KV:
    return KV("key", value, 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        (_kv(Head(index=3, nonce="ab").encode()), "ab"),
        (_kv(Answer(term=3, nonce="ab").encode()), None),  # not this model
        (_kv(b'{"v":2,"index":3,"nonce":"ab"}'), None),  # of a newer program
        (_kv(b""), None),
        (_kv(b"\xff"), None),
    ],
)
def test_what_is_absent_or_unreadable_decodes_to_none(found: KV | None, expected: str | None) -> None:
    """Where the reason does not matter. A readable value is decoded; so is its nonce."""
    decoded = decode_or_none(Head, found)
    assert (decoded and decoded.nonce) == expected
    assert nonce_of(Head, found) == expected


def test_the_nonce_of_an_answer() -> None:
    assert nonce_of(Answer, _kv(Answer(term=3, nonce="ab").encode())) == "ab"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"time": 5.0}, True),
        ({"time": 5.0, "phase": "failed"}, False),
        ({"error": "broken"}, False),
        ({"actual": {"on": False}}, False),
        ({"unknown": 1}, False),  # a field of a newer program
    ],
)
def test_a_status_is_the_same_whenever_it_was_written(other: dict[str, Any], same: bool) -> None:
    """Only its time does not count."""
    fields = {"node": "n1", "nonce": "ab", "host": "pc-1", "phase": "ready", "actual": {"on": True}, "time": 1.0}
    one = Status.model_validate(fields)
    assert one.same_but_for_time(Status.model_validate(fields | other)) is same
    assert Status.model_validate(fields | other).same_but_for_time(one) is same
    assert not one.same_but_for_time(None)
