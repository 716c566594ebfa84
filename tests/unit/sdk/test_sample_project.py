"""A project of a user that imports nodesdk alone: type checkers accept it strictly, and it works."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "tests" / "sdk_sample"
EXAMPLES = tuple(
    ROOT / "examples" / name
    for name in ("apps/counter.py", "apps/playlist.py", "driver/hosts_driver.py", "driver/test_hosts_driver.py")
)
PRIVATE = {"hostd", "masterd", "noded", "nodectl", "nodestore"}
FILES = (*sorted(SAMPLE.glob("*.py")), *EXAMPLES)


def _imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_users_import_nodesdk_alone(path: Path) -> None:
    """No file imports a private package."""
    assert "nodesdk" in _imported(path)
    assert not _imported(path) & PRIVATE


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """All files in a directory of their own, as a user has them."""
    for path in FILES:
        shutil.copy(path, tmp_path)
    return tmp_path


def _check(arguments: list[str], project: Path) -> None:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_accepts_the_project_strictly(project: Path) -> None:
    """mypy --strict, without a configuration file, accepts the files with the types of the installed package."""
    _check(["mypy", "--strict", f"--cache-dir={ROOT / '.mypy_cache' / 'sdk_sample'}", "."], project)


@pytest.mark.skipif(find_spec("basedpyright") is None, reason="basedpyright has no wheel for this machine")
def test_pyright_accepts_the_project_strictly(project: Path) -> None:
    """pyright's own strict mode accepts the files.

    basedpyright is pyright with Node.js as a wheel, so that nothing is downloaded at run time.
    """
    (project / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    _check(["basedpyright", "--pythonpath", sys.executable], project)


@pytest.mark.parametrize("check", ["check_plant", "check_contract"])
def test_it_works(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own tests pass."""
    monkeypatch.syspath_prepend(str(SAMPLE))
    getattr(importlib.import_module("checks"), check)()


def test_every_package_of_the_wheel_says_that_it_is_typed() -> None:
    """Type checkers ignore the annotations of a package without py.typed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(package).name for package in packages} == {*PRIVATE, "nodesdk"}
    assert [package for package in packages if not (ROOT / package / "py.typed").is_file()] == []


@pytest.mark.parametrize(
    "name", ["masterd.app:Command", "noded.drivers:DriverError", "nodestore.errors:Refused", "nodestore.models:Spec",
             "nodestore.jsonio:Document"],
)  # fmt: skip
def test_the_imports_of_earlier_releases_are_the_same_objects(name: str) -> None:
    """An error that an old import raises is caught by the new one."""
    module, _, attribute = name.partition(":")
    assert getattr(importlib.import_module(module), attribute) is getattr(importlib.import_module("nodesdk"), attribute)


def test_every_name_of_the_package_can_be_imported() -> None:
    """They are imported when they are first used."""
    package = importlib.import_module("nodesdk")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_the_package_alone_imports_next_to_nothing() -> None:
    """nodectl imports its errors at every start."""
    code = "import nodesdk.errors, sys; print('pydantic' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
