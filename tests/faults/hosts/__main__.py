"""`python -m tests.faults.hosts`: see `run`. A failing run is repeated by the command that it prints."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import secrets
import sys
import tempfile
import traceback
from pathlib import Path

from tests.faults.hosts import ground
from tests.faults.hosts.faults import FAULTS, UNABLE
from tests.faults.hosts.run import Run

MODULE = "tests.faults.hosts"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_SHOWN = 20


def duration(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 8h")
    return float(found[1]) * _UNITS[found[2]]


def faults(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    return names


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Clients at work while hosts fail.")
    parser.add_argument("--duration", type=duration, default=600.0, help="such as 90s, 10m, 8h (default: 10m)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a schedule")
    parser.add_argument("--only", type=faults, default=[], help=f"of: {','.join(FAULTS)}")
    parser.add_argument("--keep", type=Path, default=None, help="directory for everything (default: a new one)")
    chosen = parser.parse_args(arguments)
    seed = secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed
    if ground.INSIDE not in os.environ:
        try:
            ground.check()
            if chosen.only and all(name in UNABLE and UNABLE[name]() for name in chosen.only):
                raise ground.CannotRun("; ".join(f"{name}: {UNABLE[name]()}" for name in chosen.only))
            return ground.inside(MODULE, [*arguments, f"--seed={seed}"])
        except ground.CannotRun as reason:
            print(f"faults of hosts: {reason}", file=sys.stderr)  # noqa: T201 - a program of its own
            return ground.CANNOT
    ground.settle()
    directory = chosen.keep or Path(tempfile.mkdtemp(prefix="nodectl-faults-"))
    directory.mkdir(parents=True, exist_ok=True)
    return report(Run(directory, seed, chosen.duration, chosen.only))


def report(run: Run) -> int:
    """Do it and say how it went."""
    say = run.say
    say(f"seed {run.seed}, {run.duration_s:g} s, in {run.directory}")
    try:
        wrong = asyncio.run(run.go())
    except Exception as error:  # noqa: BLE001 - whatever ends a run, its schedule and how to repeat it must be told
        (run.directory / "traceback.txt").write_text(traceback.format_exc())
        wrong = [f"the run ended: {error!r}"[:2000]]
    (run.directory / "verdict.txt").write_text("\n".join(wrong) or "all is as it must be\n")
    for line in wrong[:_SHOWN]:
        say(f"WRONG: {line}"[:500])
    if wrong:
        only = f" ONLY={','.join(run.only)}" if run.only else ""
        again = f"make faults SEED={run.seed} DURATION={run.duration_s:g}s{only}"
        say(f"{len(wrong)} things are wrong; repeat: {again}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
