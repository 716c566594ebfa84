"""Rules of the layout: small packages with a docstring, and no module name with two meanings."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES_MAX = 20
_SAME_NAME = {
    "Settings": "each program's own settings, and the base of a driver's",
    "State": "the state machine's state, and the client's connection state, which is public API",
    "Leader": "the leader of a term, and what the client knows of it, which is public API",
    "Leadership": "whether this masterd leads, and the leader that a client knows",
    "Job": "the two halves of one interface, for POSIX and for Windows",
}
"""Class names that several modules of src share, and what each of the classes is."""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@pytest.fixture(scope="module", autouse=True)
def _forget_trees() -> Iterator[None]:
    """Later tests need not keep them: collecting garbage would visit a million objects."""
    yield
    _tree.cache_clear()


PACKAGES = [path.parent for top in ("src", "bench", "tests") for path in sorted((ROOT / top).rglob("__init__.py"))]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_holds_no_more_than_twenty_modules(package: Path) -> None:
    assert len([path for path in package.glob("*.py") if not path.stem.endswith("_pb2")]) <= MODULES_MAX


@pytest.mark.parametrize(
    "package",
    [path for path in PACKAGES if "tests" not in path.relative_to(ROOT).parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_package_says_what_it_is_for(package: Path) -> None:
    assert ast.get_docstring(_tree(package / "__init__.py"))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the full name of each module, or name in a module, that the file imports."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def test_a_test_module_imports_from_no_other_test_module() -> None:
    """What tests share is in tests/support, or in a fixture."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, name in _imports(path)
        if name.startswith("tests.") and ".test_" in name
    ]
    assert wrong == []


def test_a_class_name_has_one_meaning() -> None:
    """No two public classes of src have the same name; the shapes of the API are named as in the OpenAPI document."""
    places = defaultdict(list)
    for path in sorted(set((ROOT / "src").rglob("*.py")) - {ROOT / "src/nodestore/schema/api_types.py"}):
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    shared = {name: paths for name, paths in places.items() if len(paths) > 1 and name not in _SAME_NAME}
    assert shared == {}


_RECORDS = ("Settings", "Timing", "Options", "Tls")
"""Ends of the names of classes that hold settings. Their fields have similar types, and some are secrets."""


def test_settings_are_never_passed_by_position() -> None:
    """A field that is added to a record would shift the values: a file of certificates became a password."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} passes settings to {ast.unparse(node.func)} by position"
        for top in ("src", "tests", "bench", "examples")
        for path in sorted((ROOT / top).rglob("*.py"))
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2].endswith(_RECORDS)
    ]
    assert wrong == []


def test_dataclasses_of_settings_are_keyword_only() -> None:
    found = [
        (f"{path.relative_to(ROOT)}:{node.name}", "kw_only=True" in ast.unparse(decorator))
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith(_RECORDS)
        for decorator in node.decorator_list
        if "dataclass" in ast.unparse(decorator)
    ]
    assert len(found) > 5
    assert [name for name, keyword_only in found if not keyword_only] == []
