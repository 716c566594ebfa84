"""YAML files: merge keys, tags and anchors mean what YAML says, and everything else is refused with its line."""
# ruff: noqa: E501 -- tables of cases, one a line

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from nodectl.inventory.file import check_inventory
from nodectl.inventory.yaml_source import STDIN, FileError, YamlSource

BASE = "x-base: &base {address: a, labels: {row: top}}\n"


def _value(text: str) -> Any:
    source = YamlSource("f", text)
    source.raise_problems()
    return source.value


def _problems(text: str) -> tuple[str, ...]:
    with pytest.raises(FileError) as caught:
        _value(text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n: {<<: *base}", {"address": "a", "labels": {"row": "top"}}),
        ("n: {<<: *base, address: b}", {"address": "b", "labels": {"row": "top"}}),
        ("n: {address: b, <<: *base}", {"address": "b", "labels": {"row": "top"}}),
        ("n: {<<: [{address: c}, *base], x: 1}", {"address": "c", "labels": {"row": "top"}, "x": 1}),
        ("n: {<<: {<<: *base, address: d}}", {"address": "d", "labels": {"row": "top"}}),
        ('n: {"<<": 1}', {"<<": 1}),
        ("n: {!!str <<: 1}", {"<<": 1}),
        ("n: [<<]", ["<<"]),
    ],
)  # fmt: skip
def test_a_merge_key_adds_the_fields_of_another_mapping(text: str, value: Any) -> None:
    """The mapping's own fields come first, then those of the first merged mapping; in quotes `<<` is a name."""
    assert _value(BASE + text) == {"n": value}


def test_fields_at_the_top_that_begin_with_x_hold_anchors() -> None:
    """They are no part of the inventory, and only at the top."""
    text = BASE + "nodes:\n  n1: {<<: *base}\n  n2: {<<: *base, position: [0, 1]}\n"
    loaded = check_inventory(YamlSource("f", text))
    assert loaded.data == {
        "nodes": {
            "n1": {"address": "a", "labels": {"row": "top"}},
            "n2": {"address": "a", "labels": {"row": "top"}, "position": [0, 1]},
        }
    }
    assert loaded.source == text
    with pytest.raises(FileError, match=r"nodes\.n1\.x-y: this field is not known"):
        check_inventory(YamlSource("f", "nodes: {n1: {x-y: 1}}"))


def test_a_mistake_in_merged_fields_has_the_line_where_it_is_written() -> None:
    """Once for each mapping that merges it."""
    with pytest.raises(FileError) as caught:
        check_inventory(YamlSource("f", "x-b: &b\n  adress: a\nnodes:\n  n1:\n    <<: *b\n"))
    assert caught.value.problems == ("f:2: nodes.n1.adress: this field is not known; did you mean 'address'?",)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("!!str 5", "5"), ("!!str true", "true"), ("!!str", ""), ('!!int "5"', 5), ("!!int 0x10", 16), ("!!float 5", 5.0),
        ('!!bool "true"', True), ("!!null ''", None), ("!!map {a: 1}", {"a": 1}), ("!!seq [1]", [1]), ("!!str null", "null"),
        ("!<tag:yaml.org,2002:str> 5", "5"),
    ],
)  # fmt: skip
def test_core_tags_are_obeyed(text: str, value: Any) -> None:
    found = _value(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: !secret x", "2: b: the tag !secret is not known here; known: !!str, !!int, !!float, !!bool, !!null"),
        ("a: !!binary aGk=", "1: a: the tag !!binary is not known here; known: !!str, !!int, !!float, !!bool, !!null"),
        ("a: !!timestamp 2026-11-30", "1: a: the tag !!timestamp is not known here; known: !!str, !!int, !!float, !!bool, !!null"),
        ("a:\n  !!set {x, y}", "2: a: the tag !!set is not known here; known: !!map"),
        ("a: !!omap [x: 1]", "1: a: the tag !!omap is not known here; known: !!seq"),
        ("a: !!str {x: 1}", "1: a: the tag !!str is not known here; known: !!map"),
        ("a: ! 5", "1: a: the tag ! is not known here; known: !!str, !!int, !!float, !!bool, !!null"),
        ("!foo a: 1", "1: a: the tag !foo is not known here; known: !!str"),
        ("a: !!int five", "1: a: 'five' is not a value for the tag !!int"),
        ("a: !!int 5.5", "1: a: '5.5' is not a value for the tag !!int"),
        ("a: !!bool yes", "1: a: 'yes' is not a value for the tag !!bool"),
        ("a: !!int true", "1: a: 'true' is not a value for the tag !!int"),
        ("a:\n  <<: 5", "2: a.<<: expected an alias of fields, or a list of them; for a key named \"<<\" write it in quotes"),
        ("a: {<<: [5]}", "1: a.<<: expected an alias of fields, or a list of them; for a key named \"<<\" write it in quotes"),
        ("a:\n  <<: {x: 1}\n  <<: {y: 1}", "3: a.<<: is given twice, first in line 2"),
        ("a:\n  x: 1\n  y: {z: 1,\n    z: 2}", "4: a.y.z: is given twice, first in line 3"),
        ("a: 1\n? [x]\n: 2", "2: a key must be text"),
        ("x-a: !foo 5", "1: x-a: the tag !foo is not known here; known: !!str, !!int, !!float, !!bool, !!null"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_its_line(text: str, problem: str) -> None:
    """A tag that is ignored would change the value that its author meant."""
    assert _problems(text) == (f"f:{problem}",)


def test_merge_keys_make_no_bombs() -> None:
    """Neither by repetition nor by a mapping that merges itself."""
    levels = "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}], k{n}: 1}}\n" for n in range(1, 40))
    with pytest.raises(FileError, match="too many"):
        YamlSource("f", "m0: &m0 {x: 1}\n" + levels)
    with pytest.raises(FileError, match="too many"):
        YamlSource("f", "a: &a {<<: *a}")


def test_a_dash_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mistakes are named after it."""
    stdin = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa: 1\r\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    found = YamlSource.read(STDIN)
    assert (found.name, found.value) == ("(stdin)", {"a": 1})
    assert Path("-") == STDIN


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029"])
def test_lines_end_where_yaml_says(line_break: str) -> None:
    """An editor of another system may have written the file. The line of an empty value is found in each."""
    assert _value(f"a: 1{line_break}{line_break}b:") == {"a": 1, "b": None}
    (problem,) = _problems(f"a: 1{line_break}{line_break}b: #ff0000")
    assert "# begins a comment" in problem
    assert ":3:" in problem
