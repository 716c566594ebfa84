"""A run of hosts that fail (`make faults`) leaves nothing behind, however it ends. `make nightly` judges one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.hosts.__main__ import MODULE
from tests.faults.hosts.lan import namespaces
from tests.support.waiting import eventually


def needs_namespaces() -> None:
    try:
        namespaces.check()
    except namespaces.CannotRun as reason:
        pytest.skip(str(reason))


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
