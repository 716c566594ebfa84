"""Encodes and decodes JSON: compact UTF-8 for storage and transport, and a canonical form for hashes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from pydantic_core import from_json, to_json

from nodesdk.json_types import Document as Document
from nodesdk.json_types import Json as Json
from nodestore.errors import Garbage

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def loads(raw: bytes | str, where: str = "value") -> Json:
    """The value in `raw`. Garbage, naming `where`, if it is not JSON."""
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Garbage(f"{where} is not JSON: {error}") from None


def duplicate_key(raw: bytes, value: Json) -> str | None:
    """A name that occurs twice in one object of the JSON text `raw`, which was parsed to `value`; None if none does.

    The parser keeps only the last one. In a text without duplicates, each key of `value` has a colon outside strings.
    """
    keys = _key_count(value)
    if raw.count(b":") == keys or _STRING.sub(b"", raw).count(b":") == keys:
        return None
    found: list[str] = []

    def collect(pairs: list[tuple[str, Json]]) -> None:
        if (name := repeated_name(pairs)) is not None:
            found.append(name)

    json.loads(raw, object_pairs_hook=collect)
    return found[0] if found else None


def repeated_name(pairs: Iterable[tuple[str, Json]]) -> str | None:
    """The first name that occurs twice among the members of one object; None if none does."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def _key_count(value: Json) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_key_count(item) for item in value.values() if isinstance(item, dict | list))
    return sum(_key_count(item) for item in value if isinstance(item, dict | list)) if isinstance(value, list) else 0


def dumps(value: Json) -> bytes:
    """Compact JSON, in which the keys of objects keep their order."""
    return to_json(value)


def canonical(value: Json) -> bytes:
    """The canonical form of a value: sorted keys, no spaces. Garbage if it holds an infinite number.

    Such a value can come from valid JSON: the number 1e999 is decoded as infinity, for which JSON has no notation.
    """
    try:
        return _CANONICAL.encode(value).encode("utf-8", "surrogatepass")
    except ValueError as error:
        raise Garbage(f"not JSON: {error}") from None


def digest(value: Json) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def copy(value: Json) -> Json:
    """A deep copy of a JSON value, about twenty times as fast as copy.deepcopy."""
    if isinstance(value, dict):
        copied = value.copy()
        for key, item in value.items():
            if isinstance(item, dict | list):
                copied[key] = copy(item)
        return copied
    if isinstance(value, list):
        return [copy(item) if isinstance(item, dict | list) else item for item in value]
    return value
