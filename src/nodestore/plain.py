"""What may enter the journal: JSON that every replica reads back exactly as it was. Pure.

An entry that is committed and cannot be read stops all replicas for good, so what an application or a client hands in
is checked here, before: only JSON's own types, finite and not too large numbers, whole characters, bounded nesting.
"""

from __future__ import annotations

import math

from nodestore.errors import Invalid
from nodestore.jsonio import Json

DEPTH_MAX = 64
"""Levels of a document or result. The parser's own limit is 200, and an entry adds some of its own."""
_INT_BITS_MAX = 1024


def plain(value: Json, what: str) -> Json:
    """A deep copy of `value`; tuples become lists. Invalid, naming `what`, when it is not plain JSON."""
    return _plain(value, what, DEPTH_MAX)


def _plain(value: Json, what: str, depth: int) -> Json:
    kind = type(value)
    if kind is str:
        return _text(value, what)
    if value is None or kind is bool:
        return value
    if kind is int:
        if value.bit_length() > _INT_BITS_MAX:
            raise Invalid(f"{what}: a number of more than {_INT_BITS_MAX} bits is not allowed")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise Invalid(f"{what}: {value} is not a number that JSON knows")
        return value
    if depth == 0:
        raise Invalid(f"{what}: nested more than {DEPTH_MAX} levels deep")
    if isinstance(value, dict):
        copied = {}
        for key, item in value.items():
            name = key if type(key) is str and key.isascii() else _name(key, what)
            if type(item) is str and item.isascii():  # most of what there is: spared the call
                copied[name] = item
            else:
                copied[name] = _plain(item, what, depth - 1)
        return copied
    if isinstance(value, list | tuple):
        return [_plain(item, what, depth - 1) for item in value]
    raise Invalid(f"{what}: a value of type {kind.__name__} is not JSON")


def _name(key: Json, what: str) -> str:
    if type(key) is not str:
        raise Invalid(f"{what}: a name in an object must be text, not {type(key).__name__}")
    return _text(key, what)


def _text(text: str, what: str) -> str:
    if not text.isascii():  # which is known at no cost
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{what}: a text holds half of a surrogate pair") from None
    return text
