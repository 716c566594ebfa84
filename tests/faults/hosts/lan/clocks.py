"""Clocks that go wrong under a running program, and the proof that they were wrong.

masterd and noded of every host run on libfaketime from their start, with a clock for each host: a file that says how
wrong it is, which libfaketime reads again once a second. They run through this module, which writes down twice a second
what their clocks show beside the kernel's uptime, which nobody fakes:
`python -m tests.faults.hosts.lan.clocks MEASURED -m PROGRAM ARG...`

A step must not touch CLOCK_MONOTONIC, a rate must change it too, and libfaketime decides once for each process whether
it touches it: so some hosts have clocks that step, and the others clocks that have a rate.
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
"""In libfaketime's words."""
Kind = Literal["step", "rate"]
RIGHT: Mapping[Kind, str] = {"step": "+0s", "rate": "+0 x1"}
_EVERY_S = 0.5
_OVER_S = 0.9
"""A rate is measured over so long: the kernel's uptime has hundredths of a second."""
_RATE_WRONG = 0.25
_STEP_WRONG_S = 60.0
_MONOTONIC_WRONG_S = 5.0
_READ_BYTES = 64 << 10


def library() -> Path | None:
    """Where libfaketime is; None: not installed."""
    found = [Path(folder) / "libfaketimeMT.so.1" for folder in LIBRARIES]
    return next((path for path in found if path.exists()), None)


def missing() -> str | None:
    """Why no clock can be wrong here, and what to do; None when it can."""
    return None if library() else "libfaketime is missing: on Debian, apt-get install faketime"


def kind_of(how: str) -> Kind:
    return "rate" if "x" in how else "step"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process's clocks showed when the PC was up for `up` seconds."""

    pid: int
    up: float
    wall: float
    monotonic: float


def complaint(lines: Sequence[Measured], before: Measured, how: str) -> str | None:
    """Why these measurements do not show that the clock of the running process went from right to `how`; None: they do.

    `before`: the last measurement before it was told so."""
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
    """Of one run: a clock for each of its hosts. `seed` says which of them step, and which have a rate."""

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
        """The hosts whose clocks can be wrong in this way."""
        return sorted(host for host, kind in self.kinds.items() if kind == kind_of(how))

    def wrapped(self, host: str) -> dict[str, list[str]]:
        """What to run masterd and noded through."""
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
        """Within a second or two, for programs that run and for those that will."""
        draft = self._clock(host).with_suffix(".new")
        draft.write_text(how + "\n")
        draft.replace(self._clock(host))  # it is read at any time

    def mend(self, host: str) -> None:
        self.set(host, RIGHT[self.kinds[host]])

    def read(self, host: str) -> dict[str, list[Measured]]:
        """What each of its programs has measured lately, oldest first."""
        return {program: _read(self._measured(host, program)) for program in PROGRAMS}

    def last(self, host: str) -> dict[str, Measured]:
        """The newest of each program that has any."""
        return {program: lines[-1] for program, lines in self.read(host).items() if lines}

    def wrong(self, host: str, before: Mapping[str, Measured], how: str) -> list[str]:
        """The complaints of both programs, see `complaint`."""
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
    """Write down what our clocks show, until the process ends."""
    uptime = Path("/proc/uptime")
    with path.open("a", buffering=1) as file:
        while True:
            up = float(uptime.read_text().split()[0])
            shown = Measured(os.getpid(), up, round(time.time(), 3), round(time.monotonic(), 3))
            file.write(json.dumps(asdict(shown)) + "\n")
            select.select([], [], [], _EVERY_S)  # time.sleep() waits for a moment, which libfaketime gets wrong


if __name__ == "__main__":
    threading.Thread(target=measure, args=(Path(sys.argv[1]),), daemon=True).start()
    module = sys.argv[3]
    sys.argv = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
