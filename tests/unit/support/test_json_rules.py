"""What plain JSON is: what may enter the journal, and what is refused."""

from __future__ import annotations

import json
import math
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodestore.errors import Invalid
from nodestore.support.json_rules import DEPTH_MAX, bounded, checked_copy, finite

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


class Colour(IntEnum):
    RED = 1


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@given(JSON)
def test_plain_json_is_copied(value: Any) -> None:
    """It reads back from its encoding as it was."""
    copied = checked_copy(value, "it")
    assert copied == value
    assert json.loads(json.dumps(copied)) == value
    assert finite(value)


def test_the_copy_shares_nothing_that_could_change() -> None:
    value = {"a": [{"b": 1}], "c": ({"d": 2},)}
    copied = checked_copy(value, "it")
    assert copied == {"a": [{"b": 1}], "c": [{"d": 2}]}
    assert copied is not value
    assert copied["a"] is not value["a"]
    assert copied["a"][0] is not value["a"][0]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (1 << 1024, "a number of more than 1024 bits"),
        (-(1 << 1024), "a number of more than 1024 bits"),
        (math.inf, "inf has no JSON notation"),
        (math.nan, "nan has no JSON notation"),
        (nested(DEPTH_MAX + 1), "nested more than 64 levels deep"),
        ("\ud800", "half of a surrogate pair"),
        ({"\ud800": 1}, "half of a surrogate pair"),
        ({1: 2}, "a name in an object must be text, not int"),
        ({None: 2}, "a name in an object must be text, not NoneType"),
        (b"raw", "a value of type bytes is not JSON"),
        ({1, 2}, "a value of type set is not JSON"),
        (Colour.RED, "a value of type Colour is not JSON"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": value}, lambda value: [0, (value,)]])
def test_what_is_refused_is_named(value: Any, complaint: str, wrap: Any) -> None:
    """Wherever it is within the value."""
    with pytest.raises(Invalid, match=complaint) as caught:
        checked_copy(wrap(value), "the result of wink")
    assert str(caught.value).startswith("the result of wink: ")


@pytest.mark.parametrize(
    "value", [(1 << 1024) - 1, -((1 << 1024) - 1), nested(DEPTH_MAX), True, None, 1e308, "é\U0001f600"]
)
def test_what_is_just_allowed(value: Any) -> None:
    assert checked_copy(value, "it") == value


def _circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "levels_max", "expected"),
    [
        (1, 0, True),
        ([], 0, False),
        ([], 1, True),
        ([[]], 1, False),
        ({"a": ({"b": 1},)}, 3, True),
        ({"a": ({"b": 1},)}, 2, False),
        (nested(32), 32, True),
        (nested(33), 32, False),
        (_circular(), 32, False),
        ((1 << 1024) - 1, 0, True),
        (1 << 1024, 0, False),
        ({"a": [1 << 1024]}, 5, False),
        (object(), 0, True),  # whether it is JSON is another question
    ],
)
def test_bounds_are_checked_before_a_value_is_encoded(value: Any, levels_max: int, expected: bool) -> None:
    assert bounded(value, levels_max) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, False),
        ({"a": [-math.inf]}, False),
        (math.nan, False),
        ({"a": 1e308, "NaN": "Infinity"}, True),
        ({"a": object()}, True),  # what is no number is another's matter
    ],
)
def test_numbers_that_json_does_not_have(value: Any, expected: bool) -> None:
    assert finite(value) is expected
