"""Hosts that fail, as network namespaces on a bridge: a short mix of faults, and that the harness can tell.

FAULTS_SECONDS and FAULTS_SEED choose another mix than two minutes in CI, with always the same seed, or half a minute
elsewhere. Without root `test_chaos.py` kills and pauses processes on loopback instead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodestore.support.values import format_duration, parse_duration
from tests.faults.hosts.__main__ import MODULE
from tests.faults.hosts.lan import namespaces
from tests.support.waiting import eventually

_CI = bool(os.environ.get("CI"))
_SECONDS = parse_duration(os.environ.get("FAULTS_SECONDS") or ("2m" if _CI else "30s"))
_SEED = os.environ.get("FAULTS_SEED") or ("20" if _CI else None)
"""In CI always the same, so that a failure is a change's; elsewhere a new one each time, so that more is seen."""
_QUICK = "power-off,one-way,ring,kill,pause"
_BUDGET_S = 240.0 + _SECONDS


def needs_namespaces() -> None:
    try:
        namespaces.check()
    except namespaces.CannotRun as reason:
        pytest.skip(str(reason))


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", MODULE, f"--keep={directory}", *arguments]
    return subprocess.run(argv, cwd=namespaces.ROOT, capture_output=True, text=True, timeout=_BUDGET_S)


@pytest.mark.slow
@pytest.mark.timeout(int(_BUDGET_S) + 20)
def test_a_short_mix_of_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing acknowledged is lost or done twice, and all comes back into order, whatever hosts fail."""
    needs_namespaces()
    chosen = [f"--seed={_SEED}"] if _SEED else []
    if _SECONDS < 100:  # not enough for each of all
        chosen.append(f"--only={_QUICK}")
    done = run(tmp_path / "run", f"--duration={format_duration(_SECONDS)}", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    with capsys.disabled():
        sys.stdout.write("\n" + done.stdout)


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
async def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, ended_by: signal.Signals) -> None:
    """Neither processes nor namespaces outlive it, however it ends."""
    needs_namespaces()
    argv = [sys.executable, "-m", MODULE, f"--keep={tmp_path / 'run'}", "--duration=60s"]
    process = subprocess.Popen(argv, cwd=namespaces.ROOT, stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - returns at once
    try:
        await eventually(lambda: bool(members(tmp_path)), "its members run", timeout_s=30.0)
    finally:
        process.send_signal(ended_by)
        process.wait(20.0)
    await eventually(lambda: not members(tmp_path), "nothing of it runs", timeout_s=20.0)


def members(directory: Path) -> list[int]:
    """Processes that have something of the run on their command lines: etcd's members, and their disks."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in line and b"etcd" in line and f"{MODULE}\0".encode() not in line:
                found.append(int(entry.name))
    return found
