"""Wrong clocks for running programs, and measurements that prove them.

masterd and noded of every host run under libfaketime from their start. Each host has a clock file with the error of its
clock, which libfaketime reads again once a second. The programs run through this module, which records twice a second
their clocks and the kernel's uptime, which is not faked:
`python -m tests.faults.hosts.lan.clocks MEASURED -m PROGRAM ARG...`

A step must not change CLOCK_MONOTONIC, a rate must change it, and libfaketime decides once for each process whether it
does. So the clocks of some hosts can step, and those of the others can have a wrong rate.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import select
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")
PROGRAMS: tuple[Literal["masterd", "noded"], ...] = ("masterd", "noded")
CLOCKS = {"ahead": "+3600s", "behind": "-3600s", "slow": "+0 x0.5", "fast": "+0 x2"}
"""The errors, in the format of libfaketime."""
Kind = Literal["step", "rate"]
RIGHT: Mapping[Kind, str] = {"step": "+0s", "rate": "+0 x1"}
_EVERY_S = 0.5
_OVER_S = 0.9
"""The time over which a rate is measured: the kernel's uptime has a resolution of 0.01 s."""
_RATE_WRONG = 0.25
_STEP_WRONG_S = 60.0
_MONOTONIC_WRONG_S = 5.0
_READ_BYTES = 64 << 10


def library() -> Path | None:
    """Return the path of libfaketime; None if it is not installed."""
    found = [Path(folder) / "libfaketimeMT.so.1" for folder in LIBRARIES]
    return next((path for path in found if path.exists()), None)


def missing() -> str | None:
    """Return why wrong clocks are impossible on this machine, and what to do; None if they are possible."""
    return None if library() else "libfaketime is missing: on Debian, apt-get install faketime"


def kind_of(how: str) -> Kind:
    return "rate" if "x" in how else "step"


@dataclass(frozen=True, slots=True)
class Measured:
    """The clocks of a process when the PC was up for `up` seconds."""

    pid: int
    up: float
    wall: float
    monotonic: float


def complaint(lines: Sequence[Measured], before: Measured, how: str) -> str | None:
    """Return why these measurements do not show that the clock changed from right to `how`; None if they do.

    `before`: the last measurement before the change.
    """
    last = lines[-1] if lines else before
    if last.pid != before.pid:
        return "the program was started anew meanwhile"
    earlier = [line for line in lines if before.up < line.up <= last.up - _OVER_S and line.pid == last.pid]
    if not earlier:
        return "it has not measured its clock since"
    passed = last.up - earlier[-1].up
    wall, monotonic = (last.wall - earlier[-1].wall) / passed, (last.monotonic - earlier[-1].monotonic) / passed
    since = last.up - before.up
    step, jump = last.wall - before.wall - since, last.monotonic - before.monotonic - since
    rate = float(how.partition("x")[2] or 1.0)
    fits = abs(wall - rate) < _RATE_WRONG and abs(monotonic - rate) < _RATE_WRONG
    if kind_of(how) == "step":
        wanted = float(how.removesuffix("s"))
        fits = fits and abs(step - wanted) < _STEP_WRONG_S and abs(jump) < _MONOTONIC_WRONG_S
    if fits:
        return None
    return f"it measured rates of {wall:.2f} (wall) and {monotonic:.2f}, steps of {step:.1f} s (wall) and {jump:.1f} s"


class WrongClocks:
    """The clocks of the hosts of a run. `seed` decides which of them can step, and which can have a wrong rate."""

    def __init__(self, directory: Path, hosts: Sequence[str], seed: int = 0) -> None:
        self._directory = directory
        names = list(hosts)
        random.Random(f"clocks-{seed}").shuffle(names)
        self.kinds: dict[str, Kind] = {
            name: "rate" if place % 2 else "step" for place, name in enumerate(names)
        }  # fmt: skip
        directory.mkdir(parents=True, exist_ok=True)
        for host in hosts:
            self.mend(host)

    def of_kind(self, how: str) -> list[str]:
        """Return the hosts whose clocks can have this error."""
        return sorted(host for host, kind in self.kinds.items() if kind == kind_of(how))

    def wrapped(self, host: str) -> dict[str, list[str]]:
        """Return the command prefixes of masterd and noded on a host."""
        steps = self.kinds[host] == "step"
        return {
            program: [
                "env", f"LD_PRELOAD={library()}", f"FAKETIME_TIMESTAMP_FILE={self._clock(host)}",
                "FAKETIME_CACHE_DURATION=1", "FAKETIME_XRESET=1", f"FAKETIME_DONT_FAKE_MONOTONIC={int(steps)}",
                sys.executable, "-m", __name__, str(self._measured(host, program)),
            ]
            for program in PROGRAMS
        }  # fmt: skip

    def set(self, host: str, how: str) -> None:
        """Set the error of a host's clock, for running and future programs; in force within two seconds."""
        draft = self._clock(host).with_suffix(".new")
        draft.write_text(how + "\n")
        draft.replace(self._clock(host))  # atomically: it may be read at any time

    def mend(self, host: str) -> None:
        self.set(host, RIGHT[self.kinds[host]])

    def read(self, host: str) -> dict[str, list[Measured]]:
        """Return the latest measurements of each program on a host, oldest first."""
        return {program: _read(self._measured(host, program)) for program in PROGRAMS}

    def last(self, host: str) -> dict[str, Measured]:
        """Return the newest measurement of each program that has one."""
        return {program: lines[-1] for program, lines in self.read(host).items() if lines}

    def wrong(self, host: str, before: Mapping[str, Measured], how: str) -> list[str]:
        """Return the complaints about both programs, see `complaint`."""
        found = self.read(host)
        why = {program: complaint(found[program], before[program], how) for program in PROGRAMS}
        return [f"{program} of {host} was to have its clock at {how}: {line}" for program, line in why.items() if line]

    def _clock(self, host: str) -> Path:
        return self._directory / f"{host}.clock"

    def _measured(self, host: str, program: str) -> Path:
        return self._directory / f"{host}-{program}.jsonl"


def _read(path: Path) -> list[Measured]:
    if not path.exists():
        return []
    with path.open("rb") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - _READ_BYTES)
        file.seek(begin)
        lines = file.read().split(b"\n")[:-1]  # the last one may be half written
    return [Measured(**json.loads(line)) for line in lines[1 if begin else 0 :]]


def measure(path: Path) -> None:
    """Record the clocks of this process until it ends."""
    uptime = Path("/proc/uptime")
    with path.open("a", buffering=1) as file:
        while True:
            up = float(uptime.read_text().split()[0])
            shown = Measured(os.getpid(), up, round(time.time(), 3), round(time.monotonic(), 3))
            file.write(json.dumps(asdict(shown)) + "\n")
            select.select([], [], [], _EVERY_S)  # time.sleep() waits for an absolute time, which libfaketime gets wrong


if __name__ == "__main__":
    threading.Thread(target=measure, args=(Path(sys.argv[1]),), daemon=True).start()
    module = sys.argv[3]
    sys.argv = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
