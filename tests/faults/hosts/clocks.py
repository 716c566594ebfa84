"""Wrong clocks for our programs, and the proof that they were wrong.

A program on a wrong clock runs through this module, which measures its clocks against the kernel's uptime, which
nobody fakes, twice a second: `python -m tests.faults.hosts.clocks MEASURED -m PROGRAM ARG...`
"""

from __future__ import annotations

import json
import runpy
import select
import sys
import threading
import time
from pathlib import Path

LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")
_EVERY_S = 0.5
_RATE_WRONG = 0.3
_STEP_WRONG_S = 3000.0


def library() -> Path | None:
    """Where libfaketime is; None: not installed."""
    found = [Path(folder) / "libfaketimeMT.so.1" for folder in LIBRARIES]
    return next((path for path in found if path.exists()), None)


def missing() -> str | None:
    """Why no clock can be wrong here, and what to do; None when it can."""
    return None if library() else "libfaketime is missing: on Debian, apt-get install faketime"


class WrongClocks:
    """Of one run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def wrapped(self, host: str, how: str) -> dict[str, list[str]]:
        """What to run masterd and noded through; `how` in libfaketime's words."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._count += 1
        steps = "x" not in how
        return {
            program: [
                "env", f"LD_PRELOAD={library()}", f"FAKETIME={how}", f"FAKETIME_DONT_FAKE_MONOTONIC={int(steps)}",
                sys.executable, "-m", __name__, str(self._measured(host, program)),
            ]
            for program in ("masterd", "noded")
        }  # fmt: skip

    def check(self, host: str, how: str) -> None:
        """AssertionError unless both programs have measured that their clocks were as wrong as they should be."""
        for program in ("masterd", "noded"):
            path = self._measured(host, program)
            lines = path.read_text().splitlines() if path.exists() else []
            assert lines, f"{program} of {host} has not measured its clock"
            last = json.loads(lines[-1])
            if "x" in how:
                wanted = float(how.partition("x")[2])
                wrong = abs(last["monotonic"] - wanted) < _RATE_WRONG and abs(last["wall"] - wanted) < _RATE_WRONG
            else:
                wrong = abs(last["off_s"]) > _STEP_WRONG_S
            assert wrong, f"{program} of {host} was to have its clock at {how}, and measured {last}"

    def _measured(self, host: str, program: str) -> Path:
        return self._directory / f"{self._count:03}-{host}-{program}.jsonl"


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _booted() -> float:
    """When the PC was started, by a clock that nobody fakes."""
    stat = Path("/proc/stat").read_text()
    return float(stat.partition("btime ")[2].split()[0])


def measure(path: Path) -> None:
    """Rates of our clocks, and how far off the wall clock is, until the process ends."""
    start, wall, monotonic = _uptime(), time.time(), time.monotonic()
    with path.open("a", buffering=1) as file:
        while True:
            select.select([], [], [], _EVERY_S)  # time.sleep() waits for a moment, which libfaketime gets wrong
            passed = _uptime() - start
            if passed < _EVERY_S / 4:
                continue
            told = {
                "passed_s": round(passed, 3),
                "wall": round((time.time() - wall) / passed, 3),
                "monotonic": round((time.monotonic() - monotonic) / passed, 3),
                "off_s": round(time.time() - _booted() - _uptime(), 1),
            }
            file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    threading.Thread(target=measure, args=(Path(sys.argv[1]),), daemon=True).start()
    module = sys.argv[3]
    sys.argv = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
