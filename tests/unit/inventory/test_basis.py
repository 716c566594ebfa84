"""The comment that says from which version a file was made, and the size of a change."""

from __future__ import annotations

from typing import Any

import pytest

from nodectl.inventory.basis import Basis, split_basis, with_basis
from nodectl.inventory.diff import removed_nodes, removes_many
from nodectl.inventory.file import check_inventory
from nodectl.inventory.yaml_source import FileError, YamlSource
from nodestore.errors import Conflict

RECORD: dict[str, Any] = {"version": 7, "inventory": {"nodes": {"n1": {}}}}


def test_a_file_names_its_basis_once() -> None:
    """The text without that line is what was applied."""
    basis, text = Basis.of(RECORD), "# a wall\nnodes: {n1: {}}\n"
    file = with_basis(text, basis)
    assert file == basis.line() + text
    assert split_basis(file) == (basis, text)
    assert with_basis(file, Basis(8)) == "# nodectl: based on version 8\n" + text
    loaded = check_inventory(YamlSource("f", file))
    assert (loaded.basis, loaded.source) == (basis, text)


@pytest.mark.parametrize(
    "text", ["", "nodes: {}\n", "# a comment\n", "nodes:\n  n1: {document: {text: |\n# nodectl: based on version 7\n}}"]
)
def test_a_file_without_one_has_no_basis(text: str) -> None:
    """Only the comments at the top count."""
    assert split_basis(text) == (None, text)


def test_a_damaged_comment_is_a_mistake_with_its_line() -> None:
    """It is not taken for none: the file would then replace any version."""
    with pytest.raises(FileError, match=r"f:2: the comment .* is damaged"):
        check_inventory(YamlSource("f", "# a\n# nodectl: based on version seven\nnodes: {}"))


def test_a_basis_is_compared_with_the_current_version() -> None:
    """By number, and by content: in a restored store a number is used again. A file without digest has the number."""
    basis = Basis.of(RECORD)
    basis.check(RECORD, 7, "f")
    basis.check(None, 7, "f")  # the current one is unreadable
    Basis(7).check(RECORD, 7, "f")
    with pytest.raises(Conflict, match="f is based on version 7, and version 8 is current"):
        basis.check({**RECORD, "version": 8}, 8, "f")
    with pytest.raises(Conflict, match="that version now has another content"):
        basis.check({**RECORD, "inventory": {"nodes": {"n2": {}}}}, 7, "f")


def _wall(count: int) -> dict[str, Any]:
    return {"nodes": {f"n{number}": {} for number in range(count)}}


@pytest.mark.parametrize(
    ("before", "after", "many"),
    [
        (9, 9, False),
        (9, 6, False),
        (9, 5, True),
        (3, 2, False),
        (2, 1, True),
        (1, 0, True),
        (0, 0, False),
        (0, 9, False),
    ],
)
def test_a_change_that_removes_more_than_a_third_is_large(before: int, after: int, many: bool) -> None:
    old, new = _wall(before), _wall(after)
    assert removes_many(old, new) is many
    assert len(removed_nodes(old, new)) == max(0, before - after)


def test_other_names_are_other_nodes() -> None:
    """The same number of nodes, all of them new."""
    assert removes_many({"nodes": {"a": {}}}, {"nodes": {"b": {}}})
    assert not removes_many(None, {"nodes": {"b": {}}})
