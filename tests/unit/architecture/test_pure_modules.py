"""Modules that call themselves pure are held to it: what import-linter cannot see, and that none is missing there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
IMPURE_BUILTINS = frozenset({"__import__", "breakpoint", "eval", "exec", "input", "open", "print"})
IMPURE_METHODS = frozenset({
    "absolute", "chmod", "cwd", "exists", "expanduser", "glob", "hardlink_to", "home", "is_dir", "is_file",
    "is_symlink", "iterdir", "lstat", "mkdir", "open", "read_bytes", "read_text", "readlink", "resolve", "rglob",
    "rmdir", "samefile", "stat", "symlink_to", "touch", "unlink", "write_bytes", "write_text",
})  # fmt: skip
"""Methods of Path that touch the file system. Pure modules may use Path as a type."""


def _contract() -> dict[str, Any]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (found,) = [contract for contract in contracts if contract["name"].startswith("Pure modules")]
    return dict(found)


def _modules() -> Iterator[tuple[str, Path]]:
    for top, pattern in ((ROOT / "src", "*/**/*.py"), (ROOT, "bench/**/*.py")):
        for path in top.glob(pattern):
            yield ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__"), path


MODULES = dict(_modules())
LISTED = tuple(_contract()["source_modules"])
"""Modules, and packages that stand for all modules in them."""


def _is_listed(module: str) -> bool:
    return module in LISTED or module.startswith(tuple(f"{package}." for package in LISTED))


def _says_pure(source: str) -> bool:
    return re.search(r"\bPure\b", ast.get_docstring(ast.parse(source)) or "") is not None


def _impure_calls(source: str) -> list[str]:
    """Names of built-ins and methods that `source` calls and that do I/O."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [func.id for func in called if isinstance(func, ast.Name) and func.id in IMPURE_BUILTINS]
    return names + [func.attr for func in called if isinstance(func, ast.Attribute) and func.attr in IMPURE_METHODS]


def test_every_module_that_calls_itself_pure_is_under_contract() -> None:
    """The word in a module's docstring is a promise, so the contract must list that module."""
    promised = [module for module, path in MODULES.items() if _says_pure(path.read_text("utf-8"))]
    assert len(promised) > 15
    assert [module for module in promised if not _is_listed(module)] == []


@pytest.mark.parametrize("module", [module for module in MODULES if _is_listed(module)])
def test_a_pure_module_calls_nothing_that_does_io(module: str) -> None:
    """A pure module calls no function that accesses files or the terminal."""
    assert _impure_calls(MODULES[module].read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("open('x')", ["open"]),
        ("def f() -> None:\n    print(1)", ["print"]),
        ("with path.open() as file: pass", ["open"]),
        ("value = Path('x').read_text()", ["read_text"]),
        ("text.replace('a', 'b')", []),
        ("opened = open_one(path)", []),
    ],
)
def test_the_check_finds_io(source: str, calls: list[str]) -> None:
    """The check reports each kind of violation."""
    assert _impure_calls(source) == calls


@pytest.mark.parametrize(
    ("docstring", "pure"),
    [
        ("Decides. Pure.", True),
        ("Decides. Pure: times are handed in.", True),
        ("Its first half is pure.", False),
        ("Fetches.", False),
    ],
)
def test_the_check_reads_docstrings(docstring: str, pure: bool) -> None:
    """Only a capital letter claims that the whole module is pure."""
    assert _says_pure(f'"""{docstring}"""') is pure
