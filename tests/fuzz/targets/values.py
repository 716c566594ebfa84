"""Values and keys that another program has written to etcd."""

from __future__ import annotations

from typing import Any

from nodestore.errors import Garbage, Invalid
from nodestore.schema.entry_codec import decode_entry, decode_fast
from nodestore.schema.keys import Keys, check_path
from nodestore.schema.models import MODELS, Entry, decode
from nodestore.schema.records import record_fields
from nodestore.support.jsonio import canonical, dumps, is_nested_within, loads
from tests.fuzz.target import Target, agree

_KEYS = Keys("plant")


def _value(data: bytes) -> None:
    """The first byte chooses the model. What is accepted is read back as it was written."""
    model = MODELS[data[0] % len(MODELS)] if data else MODELS[0]
    value = decode(model, data[1:], "value")
    canonical(value.model_dump())  # no program of ours writes an infinite number, which JSON cannot express
    agree(f"{model.__name__}, written and read", decode(model, value.encode(), "again"), value)


def _entry(data: bytes) -> None:
    """Both readers of journal entries give the same entry; otherwise two replicas would have different states."""
    entry = decode_entry(data, "entry")
    fast = decode_fast(data)
    if fast is None:
        return
    try:
        slow = decode(Entry, data, "entry")
    except Garbage as error:
        raise AssertionError(f"only one reader accepts it: {error}") from None
    head: Any = ("v", "epoch", "term", "nonce", "floor", "application")
    agree("the heads", [getattr(fast, name) for name in head], [getattr(slow, name) for name in head])
    agree("the commands", *(dumps([record_fields(item) for item in both.commands]) for both in (fast, slow)))
    agree("the last index", entry.last, slow.last)


def _json(data: bytes) -> None:
    """A value has one canonical form, whichever encoder wrote it. None is found to be deeper than it is, and one
    without brackets in its texts is not found to be less deep."""
    value = loads(data)
    raw = canonical(value)
    agree("the canonical form", canonical(loads(raw)), raw)
    depth = _depth(value)
    agree("as deep as it is", is_nested_within(raw, depth), True)
    if sum(raw.count(bracket) for bracket in b"{}[]") == 2 * _containers(value) and depth:
        agree("less deep than it is", is_nested_within(raw, depth - 1), False)


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _depth(value: Any) -> int:
    inner = [_depth(child) for child in _children(value)]
    return (1 if isinstance(value, dict | list) else 0) + max(inner, default=0)


def _containers(value: Any) -> int:
    return isinstance(value, dict | list) + sum(_containers(child) for child in _children(value))


def _key(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    agree("the key of an entry", _KEYS.entry(_KEYS.entry_index(_KEYS.journal + text)), _KEYS.journal + text)


def _path(data: bytes) -> None:
    path = check_path(data.decode("utf-8", "replace"))
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert "\0" not in path


_RECORD = (
    "index",
    "id",
    "actor",
    "time",
    "name",
    "args",
    "result",
    "writes",
    "specs",
    "actions",
    "closes",
    "config",
    "restore",
)
_JSON = ("{", "}", "[", "]", ":", ",", "null", "true", "1e999", "-0", "1e16", "0.00001", "\\u00e9", '"\\ud800"')
_FIELDS = tuple(dict.fromkeys(f'"{name}"' for model in MODELS for name in model.model_fields))
TARGETS = (
    Target("etcd-values", _value, (Garbage,), (*_JSON, *_FIELDS)),
    Target("journal-entries", _entry, (Garbage,), (*_JSON, '"v":1', '"commands"', *(f'"{name}"' for name in _RECORD))),
    Target("json", _json, (Garbage,), _JSON),
    Target("etcd-keys", _key, (ValueError,), ("0000000000000001",)),
    Target("document-paths", _path, (Invalid,), ("/", "..", ".")),
)
