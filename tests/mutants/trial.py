"""Runs tests in a copy of the tree, with a fault or without.

The copy comes first in PYTHONPATH, before the tree that is installed in the environment. So the working tree is never
changed. Several copies can be used at once.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.mutants.faults import ROOT, Fault

_COPIED = ("src", "tests", "pyproject.toml")
_TESTS_FAILED = 1  # pytest's exit codes
_ALL_PASSED = 0


class Verdict(Enum):
    """What the tests made of a fault."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    TIMED_OUT = "TIMED OUT"
    BROKEN = "BROKEN"
    """pytest did not run the tests: a node id is wrong, or the fault is no valid Python."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one run of pytest. output: its last lines."""

    verdict: Verdict
    seconds: float
    output: str


class Copy:
    """A copy of the tree `source`. `base`: a folder that does not exist yet."""

    def __init__(self, base: Path, source: Path = ROOT) -> None:
        self.root = base
        base.mkdir()
        for name in _COPIED:
            if (source / name).is_dir():
                shutil.copytree(source / name, base / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source / name, base / name)

    def try_fault(self, fault: Fault, limit_s: float) -> Trial:
        """Plant the fault, run its tests, and remove it again."""
        with self._planted(fault):
            return self.run(fault.tests, limit_s)

    @contextmanager
    def _planted(self, fault: Fault) -> Iterator[None]:
        path = self.root / fault.file
        right = path.read_text("utf-8")
        try:
            _write(path, right.replace(fault.old, fault.new))
            yield
        finally:
            _write(path, right)

    def run(self, tests: Sequence[str], limit_s: float) -> Trial:
        """Run these tests until the first one fails; end them after `limit_s` seconds."""
        search = os.pathsep.join([str(self.root / "src"), str(self.root)])
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:randomly", "-m", "", *tests]
        started = time.monotonic()
        with subprocess.Popen(
            command, cwd=self.root, env={**os.environ, "PYTHONPATH": search}, start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                return Trial(Verdict.TIMED_OUT, time.monotonic() - started, f"no end after {limit_s:g} s")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with all that the tests have started
        return Trial(_verdict(process.returncode), time.monotonic() - started, "\n".join(output.splitlines()[-12:]))


def _verdict(code: int) -> Verdict:
    return {_TESTS_FAILED: Verdict.KILLED, _ALL_PASSED: Verdict.SURVIVED}.get(code, Verdict.BROKEN)


def _write(path: Path, text: str) -> None:
    """Write a module, and remove its compiled form: that is found by size and by seconds, which may be the same."""
    path.write_text(text, "utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
