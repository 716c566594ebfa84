"""Inventory files: every problem is reported at once, with its line and the remedy."""
# ruff: noqa: E501 -- tables of cases, one a line

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.inventory.diff import diff_lines, summary_lines
from nodectl.inventory.file import InventoryFile, check_inventory, load_inventory
from nodectl.inventory.yaml_source import DEPTH_MAX, FILE_BYTES_MAX, PROBLEMS_MAX, FileError, YamlSource

EXAMPLE = Path(__file__).parents[3] / "examples" / "wall"


def check(text: str) -> InventoryFile:
    return check_inventory(YamlSource("wall.yaml", text))


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(FileError) as caught:
        check(text)
    return caught.value.problems


def test_the_example_is_valid() -> None:
    """Nine nodes in a square, three masters, and groups that have members."""
    loaded = load_inventory(EXAMPLE / "wall.yaml")
    inventory = loaded.inventory
    assert {node.position for node in inventory.nodes.values()} == {
        (row, column) for row in range(3) for column in range(3)
    }
    assert list(inventory.masters) == ["m1", "m2", "m3"]
    assert {len(inventory.members_of(group)) for group in ("top", "middle", "bottom", "left", "centre", "right")} == {3}
    assert inventory.members_of("corners") == ("n1", "n3", "n7", "n9")
    assert loaded.source.startswith("# A wall")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes:\n  n3: {position: left}", "2: nodes.n3.position: expected two whole numbers [row, column], got 'left'"),
        ("nodes:\n  n3: {position: [0, 1, 2]}", "2: nodes.n3.position: expected two whole numbers [row, column], got [0, 1, 2]"),
        ('nodes:\n  n3: {position: [0, "1"]}', "2: nodes.n3.position: expected two whole numbers [row, column], got [0, '1']"),
        ("nodes:\n  n3:\n    posiiton: [0, 0]", "3: nodes.n3.posiiton: this field is not known; did you mean 'position'?"),
        ("nodes: {}\nfoo: 1", "2: foo: this field is not known; known here: v, masters, nodes, groups, defaults, settings, secret_fields"),
        ("nodes:\n  n1: {position: [0, 0]}\n  n2: {position: [0, 0]}", "3: nodes.n2.position: [0, 0] is already the position of node n1 (line 2)"),
        ("nodes:\n  n1: {}\n  n2: {}\n  n1: {}", "4: nodes.n1: is given twice, first in line 2"),
        ("nodes:\n  n 1: {}", "2: nodes.n 1: node name 'n 1' is not allowed: use 1 to 63 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit"),
        ("nodes: {}\nmasters:\n  ../m: {}", "3: masters.../m: master name '../m' is not allowed: use 1 to 63 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit"),
        ("nodes: {}\ngroups:\n  a/b: {}", "3: groups.a/b: group name 'a/b' is not allowed: use 1 to 63 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit"),
        ("nodes: {n1: {}}\ngroups:\n  g:\n    nodes:\n      - n1\n      - n7", "6: groups.g.nodes.1: node 'n7' is not among the nodes (n1)"),
        ("nodes:\n  n1: {labels: {row: 1}}", '2: nodes.n1.labels.row: expected text, got 1: write "1" in quotes'),
        ("nodes:\n  n1:", "2: nodes.n1: expected fields (key: value), got nothing: write {} for no fields"),
        ("masters:\n  m1: {priority: high}", "2: masters.m1.priority: expected a whole number, got 'high'"),
        ("masters:\n  m1: {priority: 101}", "2: masters.m1.priority: expected less than or equal to 100, got 101"),
        ("defaults:\n  driver:\n    settings: {}", "2: defaults.driver.name: is missing"),
        ("nodes:\n  n1:\n    document:\n      colour: #ff0000", '4: nodes.n1.document.colour: is empty, because # begins a comment: write "#ff0000" in quotes'),
        ("nodes:\n  n1: {document: {x: .nan}}", "2: nodes.n1.document.x: must be a finite number"),
        ("nodes: [n1]", "1: nodes: expected fields (key: value), got ['n1']"),
        ("- a", "1: expected fields such as `nodes:`, got ['a']"),
        ("v: 2", "1: written with schema version 2, this program reads up to 1: upgrade it"),
        ("a: [1,\nb: 2", "2: not YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)"),
        ("nodes:\n\tn1: {}", "2: a tab where YAML wants spaces: indent with spaces"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_line(text: str, expected: str) -> None:
    """Each problem gives one message with its line."""
    assert problems(text) == (f"wall.yaml:{expected}",)


def test_all_mistakes_are_named_at_once_in_the_order_of_lines() -> None:
    """All problems of a file are reported together."""
    found = problems("masters:\n  m1: {adress: x}\nnodes:\n  n1: {position: left}\n  n2: {label: {}}")
    assert [line.split(":")[1] for line in found] == ["2", "4", "5"]


def test_very_many_mistakes_are_cut() -> None:
    """The count of the rest is given."""
    text = "nodes:\n" + "".join(f"  n{number}: {{x: 1}}\n" for number in range(50))
    with pytest.raises(FileError) as caught:
        check(text)
    assert len(str(caught.value).splitlines()) == PROBLEMS_MAX + 1
    assert str(caught.value).endswith("... and 30 more")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("true", True), ("2024-01-01", "2024-01-01"), ("12:30", "12:30"), ("010", "010"),
        ("0x1f", 31), ("5", 5), ("-2.5", -2.5), ("1e3", 1000.0), ("1.2.3", "1.2.3"), ("~", None), ('"5"', "5"), ("null", None),
    ],
)  # fmt: skip
def test_words_mean_what_they_look_like(text: str, value: Any) -> None:
    """Only true and false are booleans; dates, times and versions are text."""
    found = YamlSource("f", f"a: {text}").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text() -> None:
    """A node may be called 1 or true."""
    assert list(check("nodes:\n  1: {}\n  true: {}").inventory.nodes) == ["1", "true"]


def test_bombs_are_refused() -> None:
    """Aliases that make a small file endless, nesting without end, and files that are too large."""
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    with pytest.raises(FileError, match="too many"):
        YamlSource("f", bomb)
    with pytest.raises(FileError, match="too many"):
        YamlSource("f", "[" * (DEPTH_MAX + 5) + "]" * (DEPTH_MAX + 5))
    with pytest.raises(FileError, match="too many"):
        YamlSource("f", "a: &a {b: *a}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """The error is a sentence, not a traceback."""
    with pytest.raises(FileError, match="No such file"):
        load_inventory(tmp_path / "nope.yaml")
    with pytest.raises(FileError, match=re.escape(str(tmp_path))):
        load_inventory(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"nodes:\n  n1: {address: caf\xe9}\n")
    with pytest.raises(FileError, match=r"latin\.yaml:2: not UTF-8"):
        load_inventory(latin)
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    with pytest.raises(FileError, match="is empty"):
        load_inventory(empty)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(FileError, match="larger"):
        load_inventory(large)


def test_windows_line_ends_and_byte_order_mark_are_fine(tmp_path: Path) -> None:
    """A file as Notepad writes it is accepted."""
    path = tmp_path / "wall.yaml"
    path.write_bytes(b"\xef\xbb\xbfnodes:\r\n  n1: {}\r\n")
    assert list(load_inventory(path).inventory.nodes) == ["n1"]


@given(st.text(alphabet=st.sampled_from(list("ab:{}[],-&*!|>'\"#\n\t 01?%@`~")), max_size=60))
def test_any_text_is_an_inventory_or_a_file_error(text: str) -> None:
    """Nothing else comes out, whatever goes in."""
    with contextlib.suppress(FileError):
        check(text)


def test_a_diff_is_about_meaning() -> None:
    """Order, comments and defaults written out are no difference."""
    old: dict[str, Any] = {"nodes": {"n1": {"address": "a", "labels": {}}}, "masters": {}}
    new: dict[str, Any] = {"masters": {}, "nodes": {"n1": {"position": None, "address": "a"}}}
    assert diff_lines(old, new, old_name="old", new_name="new") == []
    assert summary_lines(old, new) == []


def test_a_diff_says_what_comes_goes_and_changes() -> None:
    """In words, and line by line."""
    old: dict[str, Any] = {"nodes": {"n1": {"address": "a"}, "n2": {}}, "settings": {"x": 1}}
    new: dict[str, Any] = {"nodes": {"n1": {"address": "b"}, "n3": {}}, "settings": {"x": 2}}
    assert summary_lines(old, new) == ["change node n1", "remove node n2", "add node n3", "change settings"]
    lines = diff_lines(old, new, old_name="version 1", new_name="wall.yaml")
    assert lines[:2] == ["--- version 1", "+++ wall.yaml"]
    assert "-  n1: {address: a}" in lines
    assert "+  n1: {address: b}" in lines
    assert summary_lines(None, {"nodes": {"n1": {}}}) == ["add node n1"]
