"""The failover time when the leader's PC loses its power, with hosts as network namespaces (docs/faults.md).

It runs `python -m tests.faults.hosts.trial`, which needs root and namespaces, while no other cluster runs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.figures import Figure, figure
from bench.harness.goals import Goal, within
from nodestore.processes import child_processes
from nodestore.support.jsonio import loads

PROGRAM = "tests.faults.hosts.trial"
EXIT_CANNOT_RUN = 77
"""The trial's exit code if this machine cannot run it; the reason is the last line of its output."""
_TRIAL_S = 60.0
_START_S = 120.0
_GRACE_S = 20.0
_HOW = (
    "Five hosts, each a network namespace with an address of its own, three of them with an etcd member. The host of "
    "the leading masterd is cut off from the network first, so that no process can close a connection; then all its "
    "processes are killed. Measured at a client on a host of its own, from the last command that was acknowledged "
    "before the fault to the first one after it. "
)


@dataclass(frozen=True)
class PowerTrialKind:
    """One row of the table: the options of the trial, and the goals."""

    name: str
    options: tuple[str, ...]
    goals: tuple[Goal, ...]
    how: str


KINDS = (
    PowerTrialKind(
        "failover: a PC loses its power, etcd's leader is elsewhere", (), within(350.0, 700.0),
        _HOW + "The etcd member on the failed host does not lead etcd.",
    ),
    PowerTrialKind(
        "failover: a PC loses its power, and etcd's leader with it", ("--both",), within(1_100.0, 1_800.0),
        _HOW + "The etcd member on the failed host leads etcd, so etcd elects a new leader first: 500 ms or more.",
    ),
)  # fmt: skip


@dataclass
class PowerResult:
    """The measured figures. missing: why a figure was not measured, by its name."""

    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


async def measure(folder: Path, trials: int, report: Callable[[str], None]) -> PowerResult:
    """Run `trials` trials of each kind, as far as this machine can."""
    found = PowerResult()
    for number, kind in enumerate(KINDS):
        place = folder / f"power-{number}"
        why = await _run_trial(place, trials, kind, report)
        gaps = [float(loads(path.read_bytes())["gap_ms"]) for path in sorted(place.glob("trial-*.json"))]
        if gaps:  # trials before a failure count
            broken = f" It broke off after {len(gaps)} of {trials} trials: {why}." if why else ""
            how = kind.how + broken
            found.figures.append(figure(kind.name, gaps, "ms", goals=kind.goals, how=how, planned=trials))
        else:
            found.missing[kind.name] = why or "no trial was completed"
    return found


async def _run_trial(place: Path, trials: int, kind: PowerTrialKind, report: Callable[[str], None]) -> str:
    """Run the trials of one kind; return the reason of a failure, "" without one."""
    argv = [sys.executable, "-m", PROGRAM, f"--trials={trials}", f"--directory={place}", *kind.options]
    place.parent.mkdir(parents=True, exist_ok=True)
    log, within_s = place.with_suffix(".log"), _START_S + trials * _TRIAL_S
    report(f"{kind.name}: {trials} trials, some 13 s each")
    child = await child_processes.spawn(argv, stdout=log, die_with_parent=True)
    try:
        async with asyncio.timeout(within_s):
            code = await child.wait()
    except TimeoutError:
        return f"it took longer than {within_s:g} s"
    finally:
        await child.stop(_GRACE_S)
    lines = log.read_text("utf-8", "replace").strip().splitlines() or [""]
    report(lines[-1])
    if code == EXIT_CANNOT_RUN:
        return lines[-1]
    return "" if code == 0 else f"it ended with code {code}: {lines[-1][:200]}"
