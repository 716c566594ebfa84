"""The cold start of a masterd: it loads a snapshot of 10,000 documents and applies 10,000 commands of the journal."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from bench.harness.cluster import WAIT_TIMEOUT_S, BenchCluster
from bench.harness.figures import Figure, figure
from bench.harness.goals import Goal
from masterd.application.scenes import BuiltinApp
from masterd.replication.images import Image
from masterd.replication.snapshots import Snapshots
from masterd.state_machine.batch import Batch, CommandRequest
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from nodestore.cluster.election import Fence, ensure_epoch
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, Op, op_delete, op_put
from nodestore.schema.entry_codec import encode_entry
from nodestore.schema.keys import Keys
from nodestore.schema.models import Applied, ConfigRecord, Entry, Head, Term

DOCUMENTS = 10_000
COMMANDS = 10_000
_A_BATCH = 8
"""Commands in an entry, as with a few concurrent callers."""
_OPS = 100
_BEGUN = re.compile(r"(\S+)Z INFO +masterd .*: starts; pid")


class _Store:
    """Writes a store as a leader would have left it, without a leader."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self._state, self._application = State(), BuiltinApp()
        self._derivation = SpecDeriver(self._application)
        self._fence = Fence(Term(1, 0), 0, "bench")

    async def write(self, inventory: dict[str, Any]) -> None:
        """Write the whole store. Its views are marked as complete, as a new leader nearly always finds them."""
        epoch = await ensure_epoch(self._etcd, self._keys)
        self._fence = Fence(Term(1, 0), epoch.revision, "bench")  # revision 0: there is no leader
        config = ConfigRecord(version=1, actor="bench", time=0.0, inventory=inventory)
        revision = await self._etcd.put(self._keys.config_current, config.encode())
        batch = self._batch()
        batch.adopt(config, revision)
        self._apply_batch(batch)
        for start in range(0, DOCUMENTS, 100):
            self._apply_commands([self._scene(number) for number in range(start, start + 100)])
        await Snapshots(self._etcd, self._keys).write(self._fence, Image.of(self._state), time.time())
        entries = [
            self._apply_commands([self._set(at + more) for more in range(_A_BATCH)])
            for at in range(0, COMMANDS, _A_BATCH)
        ]
        for start in range(0, len(entries), _OPS):
            await self._etcd.txn([], entries[start : start + _OPS])
        index = self._state.index
        ends = [
            op_put(self._keys.head, Head(index=index, nonce="bench").encode()),
            op_put(self._keys.applied, Applied(index=index, base=index).encode()),
        ]
        await self._etcd.txn([], ends)

    def _batch(self) -> Batch:
        return Batch(self._state, self._application, self._derivation, time.time())

    def _scene(self, number: int) -> CommandRequest:
        args = {"name": f"s{number}", "nodes": {"n1": {"text": f"document {number}"}}}
        return CommandRequest(secrets.token_hex(8), "scene.save", args, "bench")

    def _set(self, number: int) -> CommandRequest:
        args = {"node": f"n{number % 9 + 1}", "values": {"text": f"command {number}"}}
        return CommandRequest(secrets.token_hex(8), "node.set", args, "bench")

    def _apply_commands(self, requests: list[CommandRequest]) -> Op:
        """Apply commands to the state; return the put of their entry."""
        batch = self._batch()
        for request in requests:
            outcome = batch.execute(request)
            if outcome is None or outcome.error is not None:
                raise NodectlError(f"the store for the cold start: {outcome.error if outcome else 'a batch is full'}")
        self._apply_batch(batch)
        return op_put(self._keys.entry(self._state.index), encode_entry(1, 0, "bench", batch.encoded))

    def _apply_batch(self, batch: Batch) -> None:
        self._state.apply(Entry.model_construct(v=1, epoch=1, term=0, nonce="bench", commands=tuple(batch.records)))


async def cold_start(bench_cluster: BenchCluster, trials: int) -> list[Figure]:
    """Measure the time until a linearizable read is answered, from the end of masterd's imports and from its start."""
    name = "cold"
    keys = Keys(name)
    current = (await bench_cluster.client.config())["current"]
    assert current is not None
    await _Store(bench_cluster.etcd, keys).write(current["inventory"])
    imported: list[float] = []
    whole: list[float] = []
    log = bench_cluster.folder / f"{name}.log"
    for _ in range(trials):
        log.unlink(missing_ok=True)
        await bench_cluster.etcd.txn([], [op_delete(keys.leader)])
        started = time.time()
        async with bench_cluster.masterd(name) as url:
            answered = await _first_answer(url)
        imported.append((answered - _start_time(log)) * 1e3)
        whole.append((answered - started) * 1e3)
    store = (
        f"A store with a snapshot of {DOCUMENTS:,} documents and {COMMANDS:,} commands in {COMMANDS // _A_BATCH:,} "
        "entries after it, and without a leader:"
    )
    until = "until it leads and answers a linearizable read."
    return [
        figure(
            "cold start of a masterd, after its imports", imported, "ms", goals=[Goal("worst", "under", 1_000.0)],
            how=f"{store} from the line that masterd writes once its imports are done {until}",
        ),
        figure(
            "cold start of a masterd, from its process's start", whole, "ms",
            how=f"{store} from right before its process is started, Python and all imports included, {until}",
        ),
    ]  # fmt: skip


async def _first_answer(url: str) -> float:
    """Wait for the first answer; return its time on the wall clock, as in the log."""
    timeout = aiohttp.ClientTimeout(total=5.0)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.timeout(WAIT_TIMEOUT_S):
        while True:
            try:
                async with session.get(f"{url}/v1/leader") as answer:
                    if answer.status == 200:
                        return time.time()
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.01)


def _start_time(log: Path) -> float:
    found = _BEGUN.search(log.read_text("utf-8"))
    if found is None:
        raise NodectlError(f"{log} has no line with the time at which masterd started")
    return datetime.fromisoformat(found[1] + "+00:00").timestamp()
