"""CPU time of a cluster's processes, by kind: what a call costs, apart from what they use at rest."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

from bench.harness.cluster import BenchCluster
from bench.harness.curve import NODED
from nodectl.dev.record import Part

_SCHEDULED = 2
"""The clock of the CPU time of all threads of a process, also of those that have ended (clock_getcpuclockid(3))."""


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, of all its threads. On Linux it is exact, elsewhere in ticks."""
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | _SCHEDULED)
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


@dataclass(frozen=True)
class Usage:
    """CPU seconds by kind of process, within `seconds`."""

    seconds: float
    cpu_s: Mapping[str, float]

    def per_call_us(self, calls: int, rest: Usage) -> dict[str, float]:
        """Return the CPU time for a call in microseconds, without what the processes use at rest in that time."""
        idle = self.seconds / rest.seconds
        return {kind: (used - rest.cpu_s[kind] * idle) / calls * 1e6 for kind, used in self.cpu_s.items()}


class CpuMeter:
    """Reads the CPU time of this process (the client) and of all processes of a cluster.

    leader: the name of the leading masterd. Processes that are started later are not counted.
    """

    def __init__(self, bench_cluster: BenchCluster, leader: str) -> None:
        record = bench_cluster.cluster.record
        masters = record.parts_of("masterd")
        self._pids = {
            "client": [psutil.Process().pid],
            "leader": _pids(part for name, part in masters.items() if name == leader),
            "standbys": _pids(part for name, part in masters.items() if name != leader),
            "members": _pids(record.parts_of("etcd").values()),
            NODED: _pids(record.parts_of("noded").values()),
        }

    def read(self) -> Usage:
        """Return the CPU time used since the start of each process; only differences mean something."""
        return Usage(time.monotonic(), {kind: sum(map(cpu_s, pids)) for kind, pids in self._pids.items()})

    def since(self, before: Usage) -> Usage:
        now = self.read()
        used = {kind: now.cpu_s[kind] - before.cpu_s[kind] for kind in now.cpu_s}
        return Usage(now.seconds - before.seconds, used)

    async def at_rest(self, seconds: float) -> Usage:
        """Measure for `seconds` in which no client sends a request."""
        before = self.read()
        await asyncio.sleep(seconds)
        return self.since(before)


def _pids(parts: Iterable[Part]) -> list[int]:
    return [part.process.pid for part in parts if part.running and part.process is not None]
