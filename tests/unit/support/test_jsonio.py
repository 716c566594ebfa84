"""The canonical form is the same in all releases, and the depth of a JSON text is found without parsing it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodestore.errors import Garbage
from nodestore.support.jsonio import canonical, is_nested_within

_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e16, 1e-5, 2.0**70])
_SCALARS = st.none() | st.booleans() | _NUMBERS | st.text() | st.sampled_from(["1e5", "0.00001", "null", "\u2028\x7f"])
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(_VALUES)
@example(1e16)
@example(-1.5e300)
@example(1e-5)
@example(5e-324)
@example({"b": [1e22], "a": {"\uffff": 1, "\U0001f600": 2}})
def test_the_canonical_form_is_what_earlier_releases_wrote(value: Any) -> None:
    """They wrote it with `json`. Hashes of specs and requests in the store were computed from it."""
    before = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert canonical(value) == before.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"a": [float("nan")]}])
def test_what_has_no_notation_is_garbage(value: Any) -> None:
    with pytest.raises(Garbage):
        canonical(value)


def test_what_only_json_can_encode_is_encoded() -> None:
    """Old entries may hold it."""
    assert canonical({2: 1, 10: "\ud800"}) == b'{"2":1,"10":"\xed\xa0\x80"}'


_NESTED = st.recursive(
    st.integers(0, 9), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner)
)


def _depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(_depth, items), default=0)


@given(_NESTED, st.integers(1, 5))
def test_the_depth_of_a_text(value: Any, levels: int) -> None:
    assert is_nested_within(json.dumps(value).encode(), levels) == (_depth(value) <= levels)


def test_brackets_in_texts_do_not_count() -> None:
    text = '[{"' + "[" * 30
    assert is_nested_within(json.dumps([text, {"a": [text, '\\"']}]).encode(), 3)
