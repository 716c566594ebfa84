"""What a report of pip-audit means: a library that was not checked never counts as one without a weakness."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.nightly.pip_audit import CANNOT_RUN, judge

GOOD = {"name": "a", "version": "1.0", "vulns": []}
WEAK = {"name": "b", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "code", "line"),
    [
        ([GOOD], 0, "1 libraries have no known weakness"),
        ([GOOD, WEAK, SKIPPED], 1, "b 2.0: CVE-1, repaired in ['2.1']"),
        ([GOOD, SKIPPED], CANNOT_RUN, "1 of 2 libraries were not checked, such as c"),
        ([], CANNOT_RUN, "0 of 0 libraries were not checked"),
    ],
)
def test_a_report(found: list[dict[str, Any]], code: int, line: str) -> None:
    verdict = judge(json.dumps({"dependencies": found}), "")
    assert verdict.code == code
    assert verdict.lines[0].startswith(line)


@pytest.mark.parametrize("report", ["", "{}", "[]", '{"dependencies": 1'])
def test_no_report(report: str) -> None:
    verdict = judge(report, "cannot connect")
    assert verdict.code == CANNOT_RUN
    assert "cannot connect" in verdict.lines[0]
