"""`python -m tests.mutants [--part 3/12 | --seed TEXT] [--seconds N] [--only ID ...]`. Exit code 0: all were killed.

1: a fault survived, or its tests did not run or did not end, or fail without it too. 2: the list does not fit the tree,
or there is no such part.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutants.faults import Fault, load, mistakes, part_of, shuffled
from tests.mutants.trial import Copy, Trial, Verdict

COPIES = 2
LIMIT_S = 120.0
"""Limit for the tests of one fault. All of them are quick; a busy machine is not."""
CONTROL_LIMIT_S = 900.0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass
class Campaign:
    """Tries faults in COPIES copies at once. deadline: monotonic time after which no further fault is begun."""

    faults: Sequence[Fault]
    deadline: float
    trials: dict[str, Trial] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: int = 0

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="mutants-") as base, ThreadPoolExecutor(COPIES) as pool:
            for done in [pool.submit(self._work, Path(base) / str(number)) for number in range(COPIES)]:
                done.result()

    def _work(self, base: Path) -> None:
        copy = Copy(base)
        while (fault := self._take()) is not None:
            trial = copy.try_fault(fault, LIMIT_S)
            with self._lock:
                self.trials[fault.id] = trial
                say(f"{trial.verdict.value:10} {trial.seconds:6.1f} s  {fault.id}")

    def _take(self) -> Fault | None:
        with self._lock:
            if self._next >= len(self.faults) or time.monotonic() >= self.deadline:
                return None
            self._next += 1
            return self.faults[self._next - 1]

    @property
    def tried(self) -> list[Fault]:
        return [fault for fault in self.faults if fault.id in self.trials]

    @property
    def left_out(self) -> list[Fault]:
        return [fault for fault in self.faults if fault.id not in self.trials]


def control(faults: Sequence[Fault]) -> Trial:
    """Run the tests of these faults without any fault: a test that always fails notices nothing."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as base:
        return Copy(Path(base) / "right").run(
            sorted({test for fault in faults for test in fault.tests}), CONTROL_LIMIT_S
        )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    faults = load()
    if wrong := mistakes(faults):
        say("\n".join(wrong))
        return 2
    try:
        drawn = _drawn(faults, options)
    except ValueError as error:
        say(str(error))
        return 2
    started = time.monotonic()
    campaign = Campaign(drawn, started + options.seconds)
    campaign.run()
    return _report(campaign, started)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="try the faults of tests/mutants")
    parser.add_argument("--part", help="only this part of the list, such as 3/12")
    parser.add_argument("--seed", help="try the faults in an order that this text decides")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further fault after this time")
    parser.add_argument("--only", nargs="*", help="only the faults with these ids")
    return parser


def _drawn(faults: Sequence[Fault], options: argparse.Namespace) -> list[Fault]:
    if options.only:
        return [fault for fault in faults if fault.id in options.only]
    if options.part:
        return part_of(faults, options.part)
    return shuffled(faults, options.seed) if options.seed else list(faults)


def _report(campaign: Campaign, started: float) -> int:
    wrong = [fault for fault in campaign.tried if campaign.trials[fault.id].verdict is not Verdict.KILLED]
    for fault in wrong:
        trial = campaign.trials[fault.id]
        say(f"\n{trial.verdict.value}: {fault.id} ({fault.file})\n{fault.why}\nits tests: {' '.join(fault.tests)}")
        say(trial.output)
    right = control(campaign.tried) if campaign.tried else None
    if right is not None and right.verdict is not Verdict.SURVIVED:
        say(f"\nthe tests do not pass without a fault ({right.verdict.value}), so they prove nothing:\n{right.output}")
    if campaign.left_out:
        say(f"\nleft out, for lack of time: {' '.join(fault.id for fault in campaign.left_out)}")
    killed = len(campaign.tried) - len(wrong)
    say(f"\n{killed} of {len(campaign.tried)} faults killed, {len(campaign.left_out)} left out, "
        f"{time.monotonic() - started:.0f} s")  # fmt: skip
    proven = right is not None and right.verdict is Verdict.SURVIVED
    return 0 if proven and not wrong else 1


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
