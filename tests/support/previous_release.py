"""Builds the previous release from git, so that tests can run its programs together with the present ones.

Its programs use this environment's dependencies: only the wheel itself is unpacked, into a directory that comes first
on the path. Each program first checks that it was imported from the intended release.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from nodectl.etcd_binary.find import cache_folder

COMMIT = "8aaf4a7ae40a69aba96da3ac82156355c24e02ed"
"""Version 0.1.0. With each release, set this to the commit of the previous one."""

_ROOT = Path(__file__).parents[2]
_BUILD_S = 300.0
_START = """
import importlib, sys
directory, program = sys.argv[1:3]
for name in ("nodestore", program):
    found = importlib.import_module(name).__file__
    assert found.startswith(directory), f"{found} is not of {directory}"
sys.argv[:3] = [program]
sys.exit(importlib.import_module(program + ".__main__").main())
"""


@dataclass(frozen=True)
class Release:
    """The present or the previous release. `directory` holds its packages."""

    name: str
    directory: Path

    def argv(self, program: str) -> list[str]:
        """Return the command that starts masterd, noded or nodectl, without arguments."""
        return [sys.executable, "-c", _START, str(self.directory), program]

    @property
    def environ(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.directory), "PYTHONSAFEPATH": "1"}


def this() -> Release:
    """Return the release in the working tree."""
    return Release("this", _ROOT / "src")


@cache
def previous() -> Release:
    """Return the previous release, built once and kept in the user's cache. Skips the test if it cannot be built."""
    kept = cache_folder(os.environ) / "previous" / f"{COMMIT[:12]}-py{sys.version_info.major}.{sys.version_info.minor}"
    if not kept.is_dir():
        _build(kept)
    return Release("previous", kept)


def _build(kept: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="nodectl-previous-") as name:
        work = Path(name)
        try:
            archive = _run("git", "-C", str(_ROOT), "archive", COMMIT)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip(f"commit {COMMIT[:12]}, the previous release, is not here: a shallow clone, or no git")
        (work / "source").mkdir()
        _run("tar", "x", "-C", str(work / "source"), stdin=archive)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        try:
            _run(*pip, "wheel", "--no-deps", "--wheel-dir", str(work), str(work / "source"))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the previous release cannot be built here: {error.stderr.decode('utf-8', 'replace')[-500:]}")
        wheel = next(work.glob("*.whl"))
        _run(*pip, "install", "--no-deps", "--target", str(work / "packages"), str(wheel))
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=kept.parent))
        shutil.copytree(work / "packages", draft, dirs_exist_ok=True)
        try:
            draft.rename(kept)
        except OSError:  # another test run was faster
            shutil.rmtree(draft)


def _run(*argv: str, stdin: bytes | None = None) -> bytes:
    return subprocess.run(argv, input=stdin, capture_output=True, check=True, timeout=_BUILD_S).stdout
