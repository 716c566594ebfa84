"""Fails a run in which a test is skipped that the committed list `tests/skips.toml` does not expect to be skipped.

CI installs the tools that tests need, and sets EXPECTED_SKIPS_ONLY=1. Without that variable every skip is allowed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

VARIABLE = "EXPECTED_SKIPS_ONLY"
ROOT = Path(__file__).parents[2]
_LIST = ROOT / "tests" / "skips.toml"


@dataclass(frozen=True, slots=True)
class ExpectedSkip:
    """One entry of the list.

    test: a node id of pytest without parameters, or the id of a job of tests/nightly. reason: text that the reason of
    the skip contains. why: why it cannot run in CI.
    """

    test: str
    reason: str
    why: str


def load(path: Path = _LIST) -> list[ExpectedSkip]:
    """Return all entries of the list."""
    return [ExpectedSkip(**item) for item in tomllib.loads(path.read_text("utf-8")).get("skip", [])]


def is_expected(test: str, reason: str, expected: Iterable[ExpectedSkip]) -> bool:
    """Return whether the list has this skip: the same test, with any parameters, for the same reason."""
    name = test.partition("[")[0]
    return any(entry.test == name and entry.reason in reason for entry in expected)


class SkipCheck:
    """A plugin of pytest that collects unexpected skips, lists them at the end, and then fails the run."""

    def __init__(self, expected: Sequence[ExpectedSkip]) -> None:
        self._expected = expected
        self.unexpected: list[str] = []

    def _add(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not is_expected(report.nodeid, reason, self._expected):
            self.unexpected.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Also called in the process that distributes the tests, for each report of a worker."""
        self._add(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A whole module can be skipped while it is collected."""
        self._add(report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Change the exit code of a run that passes otherwise."""
        if self.unexpected and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List what was skipped, and what to do about it."""
        if self.unexpected:
            terminalreporter.section("skipped, but not listed in tests/skips.toml")
            for line in sorted(set(self.unexpected)):
                terminalreporter.write_line(line)
            terminalreporter.write_line(
                f"{VARIABLE} is set: install what these tests need, or add them to tests/skips.toml with the reason"
            )
