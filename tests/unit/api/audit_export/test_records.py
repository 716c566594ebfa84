"""What is exported: who did what from where, bounded, in ASCII, and without secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masterd.api.audit_export.records import CommandPosition, ExportRecord, command_record, event_record, is_small
from nodestore.schema.models import CommandRecord, ConfigRecord, Entry
from nodestore.support.secrets import SecretFields

MARKS = SecretFields(("pin",))


def exported(bytes_max: int = 8_000, **more: Any) -> dict[str, Any]:
    fields = {"index": 7, "id": "c7", "actor": "token:jo", "time": 5.0, "name": "node.set", "args": {}, **more}
    record = CommandRecord(**fields)
    entry = Entry(epoch=2, term=9, nonce="n", commands=(record,))
    line = command_record("wall", record, entry, MARKS.masked).line(bytes_max)
    assert len(line) <= bytes_max
    assert line.isascii()
    assert "\n" not in line
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_a_command_is_exported_with_its_author_and_position() -> None:
    found = exported(
        address="10.0.0.7", on_behalf_of="bo", args={"node": "n1", "pin": 1234, "note": "a\nb", "token": "x"},
        writes={"nodes/n1": {"a": 1}}, specs={"n1": None},
    )  # fmt: skip
    assert found == {
        "event": "command", "time": 5.0, "position": "2.7", "cluster": "wall", "term": 9, "name": "node.set",
        "actor": "token:jo", "address": "10.0.0.7", "on_behalf_of": "bo", "id": "c7", "changed": ["nodes/n1"],
        "nodes": ["n1"], "args": {"node": "n1", "pin": "***", "note": "a\nb", "token": "***"},
    }  # fmt: skip


def test_a_configuration_is_named_by_its_version_only() -> None:
    config = ConfigRecord(version=3, actor="ann", time=1.0, inventory={"settings": {"password": "hunter2"}})
    found = exported(config=config, config_version=3)
    assert found["config_version"] == 3
    assert "hunter2" not in json.dumps(found)


def test_long_arguments_are_left_out() -> None:
    assert exported(args={"x": "y" * 7_950})["left_out"] == ["args"]
    assert exported(args={"x": "y" * 20_000})["left_out"] == ["args"]
    assert exported(args={"x": [0] * 5_000})["left_out"] == ["args"]


def test_many_documents_and_nodes_are_counted() -> None:
    writes = {f"p/{number:0500d}": None for number in range(30)}
    found = exported(writes=writes, specs={f"n{number}": None for number in range(30)})
    assert found["nodes"][-1] == "and 10 more"
    assert len(found["changed"]) == 21


@given(st.text(max_size=600), st.text(max_size=600), st.dictionaries(st.text(max_size=50), st.text(max_size=900)))
def test_every_line_is_bounded_json_with_its_position(actor: str, name: str, args: dict[str, str]) -> None:
    """Also for the texts of old entries, which had no limit."""
    found = exported(1_800, actor=actor, name=name, args=args)
    assert (found["event"], found["position"], found["time"]) == ("command", "2.7", 5.0)


def test_an_event_of_the_audit_log_names_its_master() -> None:
    record = event_record("wall", "m1", {
        "time": 5.0, "event": "refused", "principal": "token:jo", "address": "10.0.0.7", "request": "PUT /v1/config",
        "detail": "", "count": 2,
    })  # fmt: skip
    assert json.loads(record.line(1_800)) == {
        "event": "refused", "time": 5.0, "cluster": "wall", "master": "m1", "principal": "token:jo",
        "address": "10.0.0.7", "request": "PUT /v1/config", "count": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "small"),
    [
        ({}, True), ([[["a"]]], True), ({"a": [1, 2.5, None, True]}, True), ("x" * 17_000, False), ([1] * 3_000, False),
        ({"x" * 17_000: 1}, False), ([[1] * 1_500, [1] * 1_500], False), (1 << 70, False),
    ],
)  # fmt: skip
def test_large_values_are_recognised_without_reading_them(value: Any, small: bool) -> None:
    assert is_small(value) is small


def test_positions_ascend_over_a_restore() -> None:
    assert CommandPosition(1, 900) < CommandPosition(2, 701) < CommandPosition(2, 702)


def test_a_record_that_fits_nowhere_keeps_its_position() -> None:
    record = ExportRecord("command", 1.0, {"position": "1.5", "cluster": "c", "name": "x" * 5_000})
    assert json.loads(record.line(1_800)) == {
        "event": "command", "time": 1.0, "position": "1.5", "cluster": "c", "left_out": ["all else"],
    }  # fmt: skip
