"""Where EXPECTED_SKIPS_ONLY is set, a skip that the list does not expect fails the run, and the list fits the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nightly import jobs, skips

CONFTEST = """
import pytest
from tests.nightly.skips import ExpectedSkip, SkipCheck

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        listed = ExpectedSkip("test_it.py::test_listed", "root may", "why")
        config.pluginmanager.register(SkipCheck([listed]))
"""
LISTED = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.skipif(True, reason="root may write anywhere")
def test_listed(number): ...

def test_passes(): ...

@pytest.mark.xfail
def test_fails_as_expected(): assert False
"""
OTHER_REASON = LISTED.replace("root may write", "no tool to write")
OTHER_TEST = LISTED + "\ndef test_other(): pytest.skip('no tool')\n"
MODULE = "import pytest\npytest.skip('no tool', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("text", "workers", "unexpected"),
    [
        (LISTED, (), None),
        (OTHER_REASON, (), "test_it.py::test_listed[1]: Skipped: no tool to write anywhere"),
        (OTHER_TEST, ("-p", "xdist", "-n", "1"), "test_it.py::test_other: Skipped: no tool"),
        (MODULE, ("-p", "xdist", "-n", "1"), "test_it.py: Skipped: no tool"),
    ],
    ids=["listed", "another reason", "another test", "a module"],
)
def test_only_listed_skips_pass(tmp_path: Path, text: str, workers: tuple[str, ...], unexpected: str | None) -> None:
    """In one process and in several; an expected failure is no skip."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(text + ("\ndef test_more(): ...\n" if text is not MODULE else ""))
    (tmp_path / "test_more.py").write_text("def test_passes(): ...\n")
    environ = {**os.environ, "PYTHONPATH": str(skips.ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers]
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == (1 if unexpected else 0), done.stdout + done.stderr
    if unexpected:
        assert unexpected in done.stdout.splitlines()
        assert "EXPECTED_SKIPS_ONLY is set: install what these tests need, or add them to" in done.stdout


def test_each_entry_names_a_test_or_a_job_and_says_why() -> None:
    """An entry for a test that was renamed would hide nothing; one without a reason would hide everything."""
    names = {job.id for job in jobs.load()}
    for entry in skips.load():
        path, _, test = entry.test.partition("::")
        assert entry.why, entry
        assert entry.test in names or f"def {test}(" in (skips.ROOT / path).read_text("utf-8"), entry
        assert entry.reason or entry.test in names, entry


@pytest.mark.parametrize(
    ("test", "reason", "expected"),
    [
        ("a.py::test_a", "no zsh is installed", True),
        ("a.py::test_a[zsh]", "no zsh is installed", True),
        ("a.py::test_a", "no fish is installed", False),
        ("a.py::test_ab", "no zsh is installed", False),
    ],
)
def test_a_skip_is_expected_for_its_reason_only(test: str, reason: str, expected: bool) -> None:
    assert skips.is_expected(test, reason, [skips.ExpectedSkip("a.py::test_a", "zsh", "why")]) is expected
