"""The failover time when the leader's PC loses its power: measured, with the merged logs of each trial.

    python -m tests.faults.hosts.trial --trials 10 [--both] [--directory DIR]

The gap is measured by a client on a PC of its own: from the last acknowledged command to the first one acknowledged
after the fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from nodestore.schema.models import TermRecord, decode
from tests.faults.hosts.clients.clients import Caller
from tests.faults.hosts.lan import namespaces
from tests.faults.hosts.lan.site import Hosts, clocks
from tests.support.waiting import eventually

MODULE = "tests.faults.hosts.trial"
_APART_S = 12.0  # takeovers on suspicion at shorter intervals make standbys more patient
_STEADY = 100
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z \S+\s+(\w+) (\S+): (.*)$")


@dataclass
class Trial:
    """One trial. Times in milliseconds since the fault."""

    victim: str
    etcd_leader: str
    client_member: str
    gap_ms: float = 0.0
    last_ms: float = 0.0
    goodbyes: int = 0
    winner: str = ""
    why: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    client: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)


async def power_off(hosts: Hosts, caller: Caller, victim: str, both: bool) -> Trial:
    """Run one trial: let `victim` lead, with `both` also etcd's leader, and cut its power."""
    await hosts.lead(victim)
    elsewhere = [name for name in hosts.site.members if name != victim]
    await hosts.lead_etcd(elsewhere[0])
    since = time.monotonic()
    await eventually(lambda: len(caller.acknowledged(since)) > _STEADY, "commands go on", timeout_s=20.0)
    if both:
        await hosts.lead_etcd(victim)
    trial = Trial(victim, await hosts.etcd_leading() or "", caller.member())
    offset = clocks()
    at = hosts.pcs[victim].power_off()
    cut = time.monotonic()
    await eventually(lambda: len(caller.acknowledged(cut)) > _STEADY, "commands go on", timeout_s=60.0)
    last, first = caller.last(cut), caller.acknowledged(cut)[0]
    trial.gap_ms, trial.last_ms = (first - last) * 1e3, (last - at) * 1e3
    trial.goodbyes = len(hosts.capture.ends_of(hosts.pcs[victim].address, at))
    await _tell(hosts, trial)
    trial.client = [
        f"{(event['at'] - at) * 1e3:.0f} {event['type']} {event.get('op', '')} {event.get('id', event.get('why', ''))}"
        f" {event.get('member', '')}"
        for event in caller.events
        if (event.get("op") in ("leader", "command") or event["type"] != "invoke")
        and last - 0.005 <= event["at"] <= first + 0.02
    ]
    trial.story = story(hosts.site.directory / "log", offset + at, first - at)
    return trial


async def _tell(hosts: Hosts, trial: Trial) -> None:
    seen = await hosts.leader()
    if seen.record is not None:
        trial.winner, trial.why = seen.record.id, seen.record.why
        found = await hosts.etcd.get(hosts.keys.term(seen.record.nonce))
        if found is not None:
            record = decode(TermRecord, found.value, found.key)
            trial.phases = {name: round(value * 1e3, 1) for name, value in record.phases.items()}


def story(directory: Path, wall: float, until_s: float) -> list[str]:
    """Merge the logs of all programs from the fault on, with milliseconds since the fault."""
    told = []
    for path in directory.glob("*.log"):
        for line in path.read_text("utf-8", "replace").splitlines()[-2000:]:
            found = _STAMP.match(line)
            if found:
                at = datetime.fromisoformat(found[1] + "+00:00").timestamp() - wall
                said = f"{found[2]} {found[3]}: {found[4]}"
            elif line.startswith('{"level"'):
                entry = json.loads(line)
                at = datetime.fromisoformat(entry["ts"].replace("Z", "+00:00")).timestamp() - wall
                said = f"{path.stem}: {entry['msg']} {entry.get('error', '')}"
            else:
                continue
            if -0.05 <= at <= until_s + 0.1:
                told.append((at, f"{at * 1e3:5.0f} {said[:300]}"))
    return [said for _, said in sorted(told)]


async def measure(directory: Path, trials: int, both: bool) -> list[Trial]:
    done: list[Trial] = []
    async with Hosts(directory) as hosts:
        members = hosts.site.members
        caller = Caller(hosts, directory, endpoints=hosts.site.endpoints(), name="c1", callers=2)
        for number in range(trials):
            victim = members[number % len(members)]
            begun = time.monotonic()
            trial = await power_off(hosts, caller, victim, both)
            done.append(trial)
            (directory / f"trial-{number + 1}.json").write_text(json.dumps(asdict(trial), indent=1))
            print(  # noqa: T201 - the output of the program
                f"{number + 1:3} {trial.victim} etcd {trial.etcd_leader} client at {trial.client_member}: gap "
                f"{trial.gap_ms:.0f} ms, goodbyes {trial.goodbyes}, {trial.winner} phases {trial.phases} {trial.why}",
                flush=True,
            )
            hosts.pcs[victim].power_on()
            await hosts.ready()
            await asyncio.sleep(max(0.0, begun + _APART_S - time.monotonic()))
        caller.stop()
    return done


def summary(trials: list[Trial]) -> str:
    gaps = sorted(trial.gap_ms for trial in trials)
    middle, worst = statistics.median(gaps), gaps[-1]
    return f"{len(gaps)} trials: median {middle:.0f} ms, worst {worst:.0f} ms; all {[round(gap) for gap in gaps]}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--both", action="store_true", help="etcd's leader dies with the master")
    parser.add_argument("--directory", type=Path)
    chosen = parser.parse_args(arguments)
    if namespaces.INSIDE not in os.environ:
        try:
            return namespaces.inside(MODULE, arguments)
        except namespaces.CannotRun as reason:
            print(reason, file=sys.stderr)  # noqa: T201 - a program of its own
            return namespaces.CANNOT
    namespaces.settle()
    directory = chosen.directory or Path(tempfile.mkdtemp(prefix="nodectl-hosts-"))
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    print(summary(asyncio.run(measure(directory, chosen.trials, chosen.both))), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
