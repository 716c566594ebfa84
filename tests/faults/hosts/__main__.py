"""`python -m tests.faults.hosts`: see `run`. A failing run prints the command that repeats it."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from nodestore.daemon.options import argument_type
from nodestore.support.values import format_duration, parse_duration
from tests.faults.hosts.judgement import verdict
from tests.faults.hosts.kinds.faults import FAULTS, UNABLE
from tests.faults.hosts.lan import namespaces
from tests.faults.hosts.run import Run

MODULE = "tests.faults.hosts"
INTERRUPTED = 130
_SHOWN = 20


def faults(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    return names


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Clients at work while hosts fail.")
    parser.add_argument(
        "--duration",
        type=argument_type(parse_duration),
        metavar="TIME",
        default=600.0,
        help="such as 90s, 10m, 8h (default: 10m)",
    )
    parser.add_argument("--seed", type=int, default=None, help="repeats a schedule")
    parser.add_argument("--only", type=faults, default=[], help=f"of: {','.join(FAULTS)}")
    parser.add_argument("--keep", type=Path, default=None, help="directory for everything (default: a new one)")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="judge a run that was kept, again")
    chosen = parser.parse_args(arguments)
    if chosen.judge is not None:
        return 1 if report_findings(chosen.judge, verdict.judge(chosen.judge, print), print) else 0
    seed = secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed
    if namespaces.INSIDE not in os.environ:
        try:
            namespaces.check()
            if chosen.only and all(name in UNABLE and UNABLE[name]() for name in chosen.only):
                raise namespaces.CannotRun("; ".join(f"{name}: {UNABLE[name]()}" for name in chosen.only))
            return namespaces.inside(MODULE, [*arguments, f"--seed={seed}"])
        except namespaces.CannotRun as reason:
            print(f"faults of hosts: {reason}", file=sys.stderr)  # noqa: T201 - a program of its own
            return namespaces.CANNOT
        except KeyboardInterrupt:
            print(f"ended at once; repeat: {repeat_command(seed, chosen.duration, chosen.only)}")  # noqa: T201
            return INTERRUPTED
    namespaces.settle()
    directory = chosen.keep or Path(tempfile.mkdtemp(prefix="nodectl-faults-"))
    directory.mkdir(parents=True, exist_ok=True)
    return report(Run(directory, seed, chosen.duration, chosen.only))


def report(run: Run) -> int:
    """Run, and print the findings. Return the exit code."""
    say = run.say
    say(f"seed {run.seed}, {run.duration_s:g} s, in {run.directory}")
    try:
        wrong = asyncio.run(run.go())
    except Exception as error:  # noqa: BLE001 - however a run ends, its schedule and how to repeat it must be printed
        (run.directory / "traceback.txt").write_text(traceback.format_exc())
        wrong = [f"the run ended: {error!r}"[:2000]]
    report_findings(run.directory, wrong, say)
    if wrong or run.interrupted:
        kept = f"judge again: python -m {MODULE} --judge {run.directory}"
        say(f"{kept}\n{len(wrong)} things are wrong; repeat: {repeat_command(run.seed, run.duration_s, run.only)}")
    return 1 if wrong else INTERRUPTED if run.interrupted else 0


def report_findings(directory: Path, wrong: Sequence[str], say: Callable[[str], None]) -> bool:
    """Print and save the findings; return whether there are any."""
    (directory / "verdict.txt").write_text("\n".join(wrong) or "all is as it must be\n")
    for line in wrong[:_SHOWN]:
        say(f"WRONG: {line}"[:500])
    return bool(wrong)


def repeat_command(seed: int, duration_s: float, only: Sequence[str]) -> str:
    """Return the command that repeats a run."""
    chosen = f" ONLY={','.join(only)}" if only else ""
    return f"make faults SEED={seed} DURATION={format_duration(duration_s)}{chosen}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
