"""`python -m tests.nightly.pip_audit`: known weaknesses of the pinned libraries. It installs pip-audit in .cache/audit.

Exit code 0: all libraries were checked, and none has a known weakness. 1: one has. 77: the index, or its list of
weaknesses, cannot be reached. A library that was not checked never counts as one without a weakness.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = ROOT / ".cache" / "audit"
CANNOT_RUN = 77
_VERSION = "pip-audit>=2.9,<3"
_LIMIT_S = 300


class Verdict(NamedTuple):
    """The exit code, and what to print."""

    code: int
    lines: list[str]


def main() -> int:
    try:
        reason = _install()
        verdict = Verdict(CANNOT_RUN, [reason]) if reason else _audit()
    except subprocess.TimeoutExpired:
        verdict = Verdict(CANNOT_RUN, [f"the index did not answer within {_LIMIT_S} s"])
    sys.stdout.write("".join(f"{line}\n" for line in verdict.lines))
    return verdict.code


def judge(report: str, complaint: str) -> Verdict:
    """What pip-audit's report in JSON means. complaint: what it wrote to stderr."""
    try:
        found: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Verdict(CANNOT_RUN, [f"pip-audit gave no report: {complaint.strip()[-500:]}"])
    weak = [
        f"{item['name']} {item['version']}: {entry['id']}, repaired in {entry['fix_versions'] or 'no version'}"
        for item in found
        for entry in item.get("vulns", ())
    ]
    unchecked = [item["name"] for item in found if "skip_reason" in item]
    if weak:
        return Verdict(1, weak)
    if unchecked or not found:
        what = f"{len(unchecked)} of {len(found)} libraries were not checked, such as {', '.join(unchecked[:3])}"
        return Verdict(CANNOT_RUN, [f"{what}: the index has no list of weaknesses for them"])
    return Verdict(0, [f"{len(found)} libraries have no known weakness"])


def _install() -> str | None:
    """Make the environment. Return why that was not possible, or None."""
    if not (ENVIRONMENT / ".installed").exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        done = _run(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", _VERSION])
        if done.returncode:
            return f"pip-audit cannot be installed: {done.stderr.strip()[-500:]}"
        (ENVIRONMENT / ".installed").touch()
    return None


def _audit() -> Verdict:
    done = _run(["-m", "pip_audit", "--require-hashes", "--disable-pip", "--format=json", "-r", str(LOCK)])
    return judge(done.stdout, done.stderr)


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    program = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    return subprocess.run(
        [str(program), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
