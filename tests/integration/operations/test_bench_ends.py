"""`make bench` that is terminated while its cluster runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
_DAEMONS = Counter(etcd=3, masterd=3, noded=9)


def _daemons(bench: int) -> list[psutil.Process]:
    """The processes that the bench has started, and theirs."""
    return psutil.Process(bench).children(recursive=True)


def _count(processes: list[psutil.Process]) -> Counter[str]:
    """Count the processes by program."""
    counted: Counter[str] = Counter()
    for process in processes:
        with contextlib.suppress(psutil.Error, IndexError):  # it has ended meanwhile
            argv = process.cmdline()
            counted[argv[2] if argv[1:2] == ["-m"] else Path(argv[0]).name] += 1
    return counted


async def test_a_bench_that_is_terminated_ends_all_its_processes(tmp_path: Path) -> None:
    """It reports the signal, exits by its number, and leaves neither a process nor a file."""
    environment = {**os.environ, "QUICK": "1", "ONLY": "rest", "TMPDIR": str(tmp_path)}
    bench = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench", cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        await eventually(lambda: _count(_daemons(bench.pid)) >= _DAEMONS, "all daemons run", timeout_s=90.0)
        started = _daemons(bench.pid)
        bench.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60.0):
            output, _ = await bench.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            bench.kill()
        await bench.wait()
    assert bench.returncode == 128 + signal.SIGTERM
    assert output.decode().splitlines()[-1].startswith("ended by SIGTERM: all processes are stopped")
    assert not [process for process in started if process.is_running()]
    assert os.listdir(tmp_path) == []
