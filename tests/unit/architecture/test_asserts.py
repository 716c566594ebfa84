"""An assert in src narrows a type for mypy. It never checks what comes from outside: `python -O` leaves asserts out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def _narrows(test: ast.expr) -> bool:
    match test:
        case ast.Compare(left=left, ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return _is_a_value(left)
        case ast.Compare(left=left, ops=[ast.Eq()]):
            return ast.unparse(left) == "sys.platform"
        case ast.Call(func=ast.Name(id="isinstance"), args=[value, _]):
            return _is_a_value(value)
    return False


def _is_a_value(node: ast.expr) -> bool:
    """A name, an attribute or an item: nothing whose evaluation has an effect."""
    return not any(isinstance(part, ast.Call | ast.Await | ast.NamedExpr) for part in ast.walk(node))


def _others(source: str) -> list[str]:
    asserts = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    return [ast.unparse(node) for node in asserts if not _narrows(node.test)]


def test_asserts_in_src_narrow_types() -> None:
    """So ruff's S101 may be ignored: without its asserts the programs do the same."""
    found = {str(path): others for path in ROOT.glob("src/*/**/*.py") if (others := _others(path.read_text("utf-8")))}
    assert found == {}


@pytest.mark.parametrize(
    "checks", ["assert size < 5", "assert token", "assert read() is not None", "assert isinstance(f(), str)"]
)
def test_an_assert_that_checks_is_found(checks: str) -> None:
    """A value of a stranger must be refused by an error instead."""
    assert _others(checks) == [checks]
