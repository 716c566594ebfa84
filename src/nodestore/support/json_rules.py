"""Checks that a value is plain JSON, which every replica decodes from the journal exactly as it was. Pure.

A committed entry that is unreadable stops all replicas permanently. So values from an application, a driver or a client
are checked before they are stored. Permitted are JSON's own types, finite numbers, integers of bounded size, valid
characters and bounded nesting.
"""

from __future__ import annotations

import json
import math

from nodestore.errors import Invalid
from nodestore.support.jsonio import Json

DEPTH_MAX = 64
"""The maximum depth of a document or result. The parser's limit is 200, and an entry adds some levels."""
_INT_BITS_MAX = 1024
_SMALL_MIN, _SMALL_MAX = -(1 << 63), 1 << 63


def checked_copy(value: Json, what: str) -> Json:
    """A deep copy of `value` with tuples as lists. Invalid, naming `what`, if it is not plain JSON."""
    return _copied(value, what, DEPTH_MAX)


def bounded(value: object, levels_max: int) -> bool:
    """Whether containers are nested at most `levels_max` deep, and no integer exceeds the limit for entries.

    Check values of other programs with it before encoding them, because the encoder recurses into every level.
    """
    if isinstance(value, int):
        return value.bit_length() <= _INT_BITS_MAX
    if not isinstance(value, dict | list | tuple):
        return True
    items = value.values() if isinstance(value, dict) else value
    return levels_max > 0 and all(bounded(item, levels_max - 1) for item in items)


def finite(value: object) -> bool:
    """Whether no number in `value` is infinite or NaN. Slow: it encodes all of `value`."""
    try:
        json.dumps(value, allow_nan=False, default=str)
    except ValueError:
        return False
    return True


def _copied(value: Json, what: str, depth: int) -> Json:
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
            raise Invalid(f"{what}: {value} has no JSON notation")
        return value
    if depth == 0:
        raise Invalid(f"{what}: nested more than {DEPTH_MAX} levels deep")
    if isinstance(value, dict):
        copied = {}
        for key, item in value.items():
            name = key if type(key) is str and key.isascii() else _name(key, what)
            # The most frequent cases, without a call.
            if (type(item) is str and item.isascii()) or (type(item) is int and _SMALL_MIN < item < _SMALL_MAX):
                copied[name] = item
            else:
                copied[name] = _copied(item, what, depth - 1)
        return copied
    if isinstance(value, list | tuple):
        return [_copied(item, what, depth - 1) for item in value]
    raise Invalid(f"{what}: a value of type {kind.__name__} is not JSON")


def _name(key: Json, what: str) -> str:
    if type(key) is not str:
        raise Invalid(f"{what}: a name in an object must be text, not {type(key).__name__}")
    return _text(key, what)


def _text(text: str, what: str) -> str:
    if not text.isascii():  # a constant-time check
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{what}: a text holds half of a surrogate pair") from None
    return text
