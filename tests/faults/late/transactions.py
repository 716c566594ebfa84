"""Transactions whose copies are held back or whose replies are lost, against a real etcd.

`async with stage(cluster, keys, repeats_arrive=...) as s`: `s.late` is the session under test, whose next write can be
held (`hold_next`) or lose its reply (`lose_next_reply`). `s.witness` is a session that connects to etcd directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from masterd.application.contract import Application
from masterd.replication.replica import Replica
from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.leader import Leader, LeaderSettings
from masterd.term.parts import TermParts, build_term_parts
from nodestore.cluster.election import TakeoverWon, ensure_epoch, new_leader_record, parse_leader, takeover
from nodestore.errors import NodectlError, OutcomeUnknown
from nodestore.etcd import maintenance
from nodestore.etcd.session import KV, Etcd, EtcdSettings, TxnResult
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, Desired, Entry, Inventory, decode
from nodestore.support.jsonio import loads
from tests.faults.network.proxy import Mode, Proxy
from tests.support.cluster_views import SteeredClusterView
from tests.support.etcd_cluster import EtcdCluster
from tests.support.toy_app import ToyApp, inventory
from tests.support.waiting import eventually

ANSWER_S = 10.0
"""Timeout of calls that must be answered, even on a busy machine."""
ATTEMPT_S = 0.3
CALL_S = 0.65
"""Timeout of a transaction that writes through `LateEtcd`."""


class LateEtcd(Etcd):
    """A session whose first endpoint is the proxy. direct: a second endpoint, etcd itself, at which repeats arrive."""

    def __init__(self, proxy: Proxy, direct: str | None) -> None:
        endpoints = (proxy.address, direct) if direct else (proxy.address,)
        super().__init__(EtcdSettings(endpoints=endpoints, call_timeout_s=ANSWER_S, attempt_timeout_s=ATTEMPT_S))
        self._proxy = proxy
        self.call_s = CALL_S
        self.unknown = 0
        """The number of transactions that raised OutcomeUnknown."""
        self._up: Mode | None = None
        self._down: Mode | None = None

    async def connected(self) -> bool:
        """Switch to the proxy, and return whether a read went through it."""
        self._current = 0
        await self.get("connected")
        return self.endpoint == self._proxy.address

    def hold_next(self) -> None:
        """Hold the next transaction that writes, and all later requests, in the proxy until it forwards again."""
        self._up = Mode.HOLD

    def lose_next_reply(self) -> None:
        """Drop the reply of the next transaction that writes."""
        self._down = Mode.DROP

    async def _txn(self, request: Any, repeat: Any, timeout_s: float | None, endpoint_offset: int) -> TxnResult:
        if any(not op.HasField("request_range") for op in request.success):
            self._proxy.set(up=self._up, down=self._down)
            self._up = self._down = None
            timeout_s = self.call_s
        try:
            return await super()._txn(request, repeat, timeout_s, endpoint_offset)
        except OutcomeUnknown:
            self.unknown += 1
            raise


@dataclass
class Stage:
    """The sessions and the proxy of one scenario."""

    keys: Keys
    proxy: Proxy
    late: LateEtcd
    witness: Etcd

    async def held(self) -> None:
        """Wait until the proxy holds a copy."""
        await self.proxy.wait_held(up_bytes=1)

    async def deliver(self) -> None:
        """Deliver the held bytes and wait until etcd has processed them. No other program may write meanwhile."""
        before = await self._raft_index()
        self.proxy.forward()
        await eventually(lambda: self.proxy.held_up_bytes == 0, "all held bytes are delivered")

        async def decided() -> bool:
            return await self._raft_index() > before

        await eventually(decided, "etcd has decided on what was delivered")

    async def _raft_index(self) -> int:
        return (await maintenance.status(self.witness, self.witness.settings.endpoints[0])).raft_index

    async def entries(self) -> list[Entry]:
        """Return the entries of the journal."""
        return [decode(Entry, kv.value, kv.key) for kv in (await self.witness.range(self.keys.journal)).kvs]

    async def ids(self) -> list[str]:
        """Return the ids of all commands in the journal, in order, without adoptions of a configuration."""
        found = [record.id for entry in await self.entries() for record in entry.commands]
        return [name for name in found if not name.startswith("config.")]

    async def once(self, index: int) -> None:
        """Check that the entry with this index was written exactly once."""
        found = await self.witness.get(self.keys.entry(index))
        assert found is not None, f"entry {index} is missing"
        assert found.version == 1, f"entry {index} was written {found.version} times"

    async def head(self) -> KV:
        found = await self.witness.get(self.keys.head)
        assert found is not None
        return found

    async def view(self, key: str) -> Any:
        found = await self.witness.get(key)
        return None if found is None else loads(found.value)


@asynccontextmanager
async def stage(cluster: EtcdCluster, keys: Keys, *, repeats_arrive: bool) -> AsyncIterator[Stage]:
    """Yield a stage. repeats_arrive: repeats of a held or unanswered transaction reach etcd directly."""
    direct = cluster.endpoints[0]
    async with (
        Proxy(direct) as proxy,
        Etcd(EtcdSettings(endpoints=(direct,), call_timeout_s=ANSWER_S)) as witness,
        LateEtcd(proxy, direct if repeats_arrive else None) as late,
    ):
        await ensure_epoch(witness, keys)
        await eventually(late.connected, "it is connected through the proxy")
        yield Stage(keys, proxy, late, witness)


async def configure(etcd: Etcd, keys: Keys, config: Inventory | None = None, version: int = 1) -> int:
    """Write config/current; return its revision."""
    content = (config or inventory("n1", "n2")).model_dump(mode="json")
    record = ConfigRecord(version=version, actor="admin", time=0.0, inventory=content)
    return await etcd.put(keys.config_current, record.encode())


async def take_over(etcd: Etcd, keys: Keys, name: str, next_index: int = 1) -> TakeoverWon:
    """Win a term from the current leader."""
    lease, _ = await etcd.grant(60)
    seen = parse_leader(await etcd.get(keys.leader))
    me = new_leader_record(master=name, host=name, urls=(), nonce=secrets.token_hex(8), cause="first", why="test")
    won = await takeover(
        etcd, keys, me=me, lease=lease, seen=seen, epoch=await ensure_epoch(etcd, keys), next_index=next_index,
        timeout_s=ANSWER_S,
    )  # fmt: skip
    assert isinstance(won, TakeoverWon), won
    return won


@dataclass
class RunningLeader:
    """A leader at work within the test."""

    won: TakeoverWon
    leader: Leader
    parts: TermParts
    replica: Replica
    cluster_view: SteeredClusterView
    running: asyncio.Task[None]
    errors: list[NodectlError] = field(default_factory=list)

    async def add(self, command_id: str, path: str = "sum") -> CommandOutcome:
        """One command that is not idempotent."""
        return (await self.submit(CommandRequest(command_id, "add", {"path": path}, "tester", 0)))[0]

    async def put(self, path: str, command_id: str = "", **document: Any) -> CommandOutcome:
        request = CommandRequest(
            command_id or f"put-{path}-{document}", "put", {"path": path, "document": document}, "t", 0
        )
        return (await self.submit(request))[0]

    async def submit(self, *requests: CommandRequest) -> list[CommandOutcome]:
        return await self.leader.submit(requests)

    async def ended(self, timeout_s: float = 5.0) -> NodectlError:
        """The error with which its term ended."""
        async with asyncio.timeout(timeout_s):
            await asyncio.wait([self.running])
        error = self.running.exception()
        assert isinstance(error, NodectlError), error
        return error


@asynccontextmanager
async def run_leader(
    etcd: Etcd,
    witness: Etcd,
    keys: Keys,
    name: str = "m1",
    *,
    application: Application | None = None,
    settings: LeaderSettings | None = None,
    won: TakeoverWon | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncIterator[RunningLeader]:
    """A leader that writes through `etcd`. It has no watches: it learns of its end from what it writes."""
    won = won or await take_over(witness, keys, name)
    replica, cluster_view = Replica(witness, keys), SteeredClusterView(witness, keys)
    await replica.apply_takeover(won)
    parts = build_term_parts(
        etcd, keys, master=name, won=won, replica=replica, cluster_view=cluster_view,
        application=application or ToyApp(), settings=settings or LeaderSettings(), wall_clock=wall_clock,
    )  # fmt: skip
    leader = Leader(parts)
    running = asyncio.create_task(leader.run(), name=f"leader {name}")
    try:
        await _serving(leader, running)
        yield RunningLeader(won, leader, parts, replica, cluster_view, running)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, NodectlError):
            await running


@asynccontextmanager
async def watch_cluster(term: RunningLeader) -> AsyncIterator[None]:
    """Keep the cluster view of this leader up to date, as its masterd would."""
    watching = asyncio.create_task(term.cluster_view.watch())
    try:
        await eventually(lambda: term.cluster_view.epoch is not None, "the cluster view has been read")
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _serving(leader: Leader, running: asyncio.Task[None]) -> None:
    waiting = asyncio.create_task(leader.serving.wait())
    done, _ = await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED, timeout=10.0)
    waiting.cancel()
    if running in done:
        await running
    assert done, "the leader does not begin to serve"


def session(cluster: EtcdCluster) -> Etcd:
    return Etcd(EtcdSettings(endpoints=cluster.endpoints, call_timeout_s=ANSWER_S))


async def desired(etcd: Etcd, keys: Keys, revision: int = 0) -> dict[str, tuple[Desired, KV]]:
    """The nodes' desired documents, and the keys they are in; now, or as of `revision`."""
    found = (await etcd.range(keys.desired, revision=revision)).kvs
    return {kv.key.removeprefix(keys.desired): (decode(Desired, kv.value, kv.key), kv) for kv in found}


async def wait_shown(etcd: Etcd, keys: Keys, documents: dict[str, Any]) -> None:
    """Until the nodes must be so."""

    async def so() -> bool:
        return {node: wanted.spec.document for node, (wanted, _) in (await desired(etcd, keys)).items()} == documents

    await eventually(so, f"the nodes must be {documents}")
