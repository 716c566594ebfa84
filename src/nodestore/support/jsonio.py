"""Encodes and decodes JSON: compact UTF-8 for storage and transport, and a canonical form for hashes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable

import msgspec
from pydantic_core import from_json, to_json

from nodesdk.json_types import Document as Document
from nodesdk.json_types import Json as Json
from nodestore.errors import Garbage

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_FAST_CANONICAL = msgspec.json.Encoder(order="sorted")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder()
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
encoded_plain: Callable[[Json], bytes] = _ENCODER.encode
"""Compact JSON of a value that is plain JSON, as all values that were decoded are: faster than `dumps`.

An infinite number, which has no notation in JSON, becomes null."""
_BRACES = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")


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
    if _has_as_many_colons(raw, value):
        return None
    keys = _key_count(value)
    if raw.count(b":") == keys or _STRING.sub(b"", raw).count(b":") == keys:
        return None
    found: list[str] = []

    def collect(pairs: list[tuple[str, Json]]) -> None:
        if (name := repeated_name(pairs)) is not None:
            found.append(name)

    json.loads(raw, object_pairs_hook=collect)
    return found[0] if found else None


def _has_as_many_colons(raw: bytes, value: Json) -> bool:
    """Whether `raw` is seen to hold no name twice, because `value` is encoded with as many colons. This is quicker than
    to count keys. A name that was given twice lacks one. Only a colon that is escaped in `raw` could take its place."""
    try:
        return b"\\u" not in raw and encoded_plain(value).count(b":") == raw.count(b":")
    except (ValueError, OverflowError, RecursionError):
        return False


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


def encoded_if_plain(value: object) -> bytes | None:
    """Compact JSON of `value`, whose keys keep their order; None if it is not plain JSON, or that is not quick to see.

    The encoder takes sets, dates and the like too, so what it wrote is read back and compared.
    """
    try:
        raw = _ENCODER.encode(value)
        return raw if _DECODER.decode(raw) == value else None
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def canonical(value: Json) -> bytes:
    """The canonical form of a value: sorted keys, no spaces. Garbage if it holds an infinite number.

    Such a value can come from valid JSON: the number 1e999 is decoded as infinity, for which JSON has no notation.
    The value must be plain JSON; for other values, see `canonical_if_plain`.
    """
    try:
        raw = _FAST_CANONICAL.encode(value)
    except (TypeError, ValueError):  # names that are numbers, or half of a surrogate pair
        return _canonical_by_json(value)
    # `json` writes 1e+16 and 1e-05 for 1e16 and 0.00001, and refuses NaN, which is null here. Hashes in the store were
    # computed from what `json` writes, and must stay the same in all releases.
    if b"null" in raw or b"0.0000" in raw or b"0e" in raw.translate(_DIGITS):
        return _canonical_by_json(value)
    return raw


def canonical_if_plain(value: Json) -> bytes:
    """The canonical form of a value that need not be plain JSON. TypeError if it is not, Garbage as in `canonical`."""
    raw = canonical(value)
    # The fast encoder takes sets, dates and the like, which other programs would read as something else.
    try:
        is_plain = _DECODER.decode(raw) == value
    except ValueError:
        is_plain = False
    return raw if is_plain else _canonical_by_json(value)


def _canonical_by_json(value: Json) -> bytes:
    try:
        return _CANONICAL.encode(value).encode("utf-8", "surrogatepass")
    except ValueError as error:
        raise Garbage(f"not JSON: {error}") from None


def is_nested_within(raw: bytes, levels_max: int) -> bool:
    """Whether the containers in the JSON text `raw` are nested at most `levels_max` deep.

    It may be deeper nevertheless if texts in `raw` hold brackets that match others only by chance.
    """
    if raw.count(b"{") + raw.count(b"[") <= levels_max:  # as in nearly every record
        return True
    return _has_at_most(levels_max, raw) or _has_at_most(levels_max, _STRING.sub(b"", raw))


def _has_at_most(levels_max: int, raw: bytes) -> bool:
    brackets = raw.translate(_BRACES, _NO_BRACKETS)
    while len(brackets) > 2 * levels_max:  # each level takes two
        fewer = brackets.replace(b"}{", b"")  # the depth after these two is that before them
        if len(fewer) == len(brackets):
            return False
        brackets = fewer
    return True


def digest(value: Json) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical form."""
    return sha256(canonical(value)).hex()[:16]


def sha256(raw: bytes) -> bytes:
    """The SHA-256 of a short text, as 32 bytes."""
    hasher = _NEW_SHA256.copy()
    hasher.update(raw)
    return hasher.digest()


_NEW_SHA256 = hashlib.sha256()
"""Never updated. To copy it takes half as long as to make another one."""


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
