"""`python -m tests.nightly [--target NAME] [--only ID ...] [--seed TEXT] [--seconds N] [--list]`.

Without --seconds each job runs whole; with it, the short form of those that fit, drawn by the seed. Exit code 0: all
that ran passed. 1: a job failed, did not end, or cannot run here although it should. 2: the list is wrong.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from tests.nightly import skips
from tests.nightly.draw import Drawn, LeftOut, draw
from tests.nightly.jobs import ROOT, Job, load, mistakes

CANNOT_RUN = 77
_PATIENCE = 3
"""A job that takes so many times longer than expected, and a minute, is ended."""
_START_S = 60
_ENDING_S = 20


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    jobs = load()
    if wrong := mistakes(jobs):
        say("\n".join(wrong))
        return 2
    jobs = [
        job for job in jobs if options.target in (None, job.target) and (not options.only or job.id in options.only)
    ]
    if not jobs:
        say(f"there is no such job; there are: {', '.join(job.id for job in load())}")
        return 2
    short = options.seconds is not None
    seed = options.seed or (secrets.token_hex(4) if short else None)
    drawn = draw(jobs, seed, options.seconds) if seed is not None and short else Drawn(tuple(jobs), ())
    if options.list:
        _print_list(drawn, short=short)
        return 0
    return _run_all(drawn, seed if short else None, options.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.nightly", description="run what takes long")
    parser.add_argument("--target", help="only the jobs of this make target")
    parser.add_argument("--only", nargs="*", help="only the jobs with these ids")
    parser.add_argument("--seed", help="with --seconds: a text that decides which jobs run, such as a commit's hash")
    parser.add_argument("--seconds", type=float, help="run the short form of as many jobs as fit into this time")
    parser.add_argument("--list", action="store_true", help="print the jobs instead of running them")
    return parser


def _print_list(drawn: Drawn, *, short: bool) -> None:
    for job in drawn.chosen:
        say(f"{job.id:24} make {job.target:10} {job.expected_s(short=short):5} s  {job.why}")
    _print_left_out(drawn.left_out)


def _print_left_out(left_out: Sequence[LeftOut]) -> None:
    for entry in left_out:
        say(f"left out: {entry.job.id}: {entry.reason}")


def _run_all(drawn: Drawn, seed: str | None, limit_s: float | None) -> int:
    started = time.monotonic()
    failed: list[str] = []
    for job in drawn.chosen:
        verdict = _run(job, seed)
        say(f"== {job.id}: {verdict or 'passed'}")
        if verdict:
            failed.append(f"{job.id}: {verdict}")
    _print_left_out(drawn.left_out)
    part = f"seed {seed}, limit {limit_s:g} s: " if seed is not None and limit_s is not None else ""
    say(f"{part}{len(drawn.chosen)} jobs in {time.monotonic() - started:.0f} s, {len(failed)} failed, "
        f"{len(drawn.left_out)} left out")  # fmt: skip
    for line in failed:
        say(f"FAILED {line}")
    return 1 if failed else 0


def _run(job: Job, seed: str | None) -> str | None:
    """Run one job. Return what is wrong, or None."""
    command = job.command(seed)
    expected_s = job.expected_s(short=seed is not None)
    say(f"== {job.id}, about {expected_s} s: {command}")
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", *command.words], cwd=ROOT, env={**os.environ, **command.environ}, start_new_session=True
    ) as process:
        try:
            code = process.wait(expected_s * _PATIENCE + _START_S)
        except subprocess.TimeoutExpired:
            return f"no end after {time.monotonic() - started:.0f} s, although about {expected_s} s were expected"
        finally:
            _end(process)
    return judge(job, code)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a job that still runs, politely at first, and all that it has started and left."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def judge(job: Job, code: int) -> str | None:
    """Return what is wrong with a job that ended with this exit code, or None.

    A job that cannot run here fails only where every skip must be listed.
    """
    if code == CANNOT_RUN:
        if not os.environ.get(skips.VARIABLE) or skips.is_expected(job.id, "", skips.load()):
            say(f"== {job.id}: cannot run here")
            return None
        return "cannot run here, and tests/skips.toml does not list it"
    return f"exit code {code}" if code else None


if __name__ == "__main__":
    sys.exit(main())
