"""Documents of 100 kB to 1 MB, as fast as the leader takes them: no process of the cluster needs ever more memory.

DOCUMENT_SECONDS sets how long it goes on (60, 10m, 1h): 45 s by default.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path

import psutil
import pytest

from nodectl.client import Client
from nodectl.dev.cluster import DevCluster
from nodestore.errors import NodectlError
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd
from nodestore.support.values import parse_duration

_SECONDS = parse_duration(os.environ.get("DOCUMENT_SECONDS") or "45")
_CALLERS = 8
_LEAST_BYTES, _MOST_BYTES = 100_000, 1_000_000
_DOCUMENTS_A_SECOND_MIN = 0.2
"""A leader takes 1 MB of large commands a second, and a document is written up to four times."""
_MIB = 1 << 20
_MEMBER_MAX, _MASTERD_MAX = 400 * _MIB, 300 * _MIB
_INVENTORY = """
masters: { m1: {}, m2: {}, m3: {} }
nodes: { n1: {}, n2: {}, n3: {} }
defaults: { driver: { name: process, settings: { argv: [sleep, inf] } } }
"""
"""Three nodes, because their documents and desired states of 1 MB each fit into the limit of the state."""


class _Load:
    """Callers that write large documents, one after another each."""

    def __init__(self, client: Client) -> None:
        self._client, self._random = client, random.Random(11)
        self.taken, self.failures = 0, list[str]()

    async def run(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        async with asyncio.TaskGroup() as callers:
            for number in range(_CALLERS):
                callers.create_task(self._caller(number, ends))

    async def _caller(self, number: int, ends: float) -> None:
        while time.monotonic() < ends:
            size = round(_LEAST_BYTES * (_MOST_BYTES / _LEAST_BYTES) ** self._random.random())
            document = {"text": self._random.randbytes(size // 2).hex()}
            try:
                await self._client.command("node.put", {"node": f"n{number % 3 + 1}", "document": document})
            except NodectlError as error:  # refused: too much waits
                self.failures.append(repr(error))
                await asyncio.sleep(0.5)
            else:
                self.taken += 1


class _Memory:
    """The memory of processes: the most that each kind has used."""

    def __init__(self, cluster: DevCluster) -> None:
        parts = {kind: cluster.record.parts_of(kind).values() for kind in ("etcd", "masterd")}
        self._pids = {
            kind: [part.process.pid for part in of_kind if part.process is not None] for kind, of_kind in parts.items()
        }
        self.most = dict.fromkeys(self._pids, 0)

    async def watch(self) -> None:
        """Measure once a second until cancelled."""
        while True:
            for kind, pids in self._pids.items():
                self.most[kind] = max(self.most[kind], *(psutil.Process(pid).memory_info().rss for pid in pids))
            await asyncio.sleep(1.0)


@pytest.mark.nightly
@pytest.mark.timeout(_SECONDS + 240)
async def test_large_documents_at_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing takes over, documents are taken all the time, and afterwards a small command works at once."""
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(_INVENTORY, "utf-8")
    cluster = DevCluster(tmp_path / "cluster", inventory=inventory, die_with_parent=True)
    try:
        await cluster.up()
        async with cluster.client() as client, Etcd(cluster.etcd_settings()) as etcd:
            for node in list(cluster.record.parts_of("noded")):
                await cluster.stop(node)
            terms, load, memory = await client.terms(), _Load(client), _Memory(cluster)
            watching = asyncio.create_task(memory.watch())
            await load.run(_SECONDS)
            await client.command("node.set", {"node": "n1", "values": {"after": 1}}, timeout_s=30.0)
            assert not watching.done(), "a process of the cluster has ended"
            watching.cancel()
            shown = f"{load.taken} documents, most memory {memory.most}, {len(load.failures)} not taken"
            with capsys.disabled():
                sys.stdout.write(f"\n{shown}\n")
            assert load.taken >= _DOCUMENTS_A_SECOND_MIN * _SECONDS, (shown, load.failures[-5:])
            assert memory.most["etcd"] < _MEMBER_MAX, shown
            assert memory.most["masterd"] < _MASTERD_MAX, shown
            assert await client.terms() == terms, "no masterd took over"
            assert not await maintenance.alarms(etcd)
    finally:
        await cluster.destroy()
