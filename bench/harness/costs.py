"""The costs of a command: its transaction and its HTTP request alone, for timing, and its CPU time by process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import aiohttp
import psutil

from bench.harness.cluster import Action, BenchCluster
from nodectl.dev.record import Part
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, Op, cmp_mod, op_get, op_put

_SIZES = (60, 420, 110, 300, 60)
"""Bytes of the values that a command of the built-in application puts: head, entry, document, desired, applied."""


class CpuPerCommand:
    """CPU time that a cluster's processes have used since the construction of this object, by kind of process."""

    def __init__(self, bench_cluster: BenchCluster, leader: str) -> None:
        self._processes: dict[str, list[psutil.Process]] = {"client": [psutil.Process()]}
        record = bench_cluster.cluster.record
        masters = record.parts_of("masterd")
        self._add("leader", [part for name, part in masters.items() if name == leader])
        self._add("two standbys", [part for name, part in masters.items() if name != leader])
        self._add("three members", record.parts_of("etcd").values())
        self._before = self._used_s()

    def _add(self, kind: str, parts: Iterable[Part]) -> None:
        self._processes[kind] = [psutil.Process(part.process.pid) for part in parts if part.process is not None]

    def _used_s(self) -> dict[str, float]:
        return {
            kind: sum(process.cpu_times().user + process.cpu_times().system for process in processes)
            for kind, processes in self._processes.items()
        }

    def per_command_us(self, commands: int) -> dict[str, float]:
        """Return the CPU time divided by the number of commands, in microseconds, by kind of process."""
        return {kind: (used - self._before[kind]) / commands * 1e6 for kind, used in self._used_s().items()}


def format_us(us: Mapping[str, float]) -> str:
    parts = ", ".join(f"{kind} {used:.0f}" for kind, used in us.items())
    return f"CPU time per command in us, all processes on the same cores: {parts}; together {sum(us.values()):.0f}."


def make_transaction(etcd: Etcd) -> Action:
    """Return an action that runs a transaction with the shape of a command's."""
    compares = [cmp_mod(f"/bench/none/{number}", 0) for number in range(3)]
    puts: list[Op] = [op_put(f"/bench/{number}", b"x" * size) for number, size in enumerate(_SIZES)]
    orelse = [op_get(f"/bench/none/{number}") for number in range(3)]
    return lambda: etcd.txn(compares, puts, orelse)


def make_request(session: aiohttp.ClientSession, url: str) -> Action:
    """Return an action that sends an HTTP request to the leader, which answers it from memory."""

    async def request() -> None:
        async with session.get(url + "/v1/health") as answer:
            if answer.status != 200:
                raise NodectlError(f"{url} answered {answer.status}")
            await answer.read()

    return request
