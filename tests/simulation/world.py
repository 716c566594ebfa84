"""A simulated cluster: real masterds on a fake etcd, in virtual time. Masterds crash, and messages are lost or late.

Nothing here decides what is correct. `judge` does, from the store's history and from the results that clients got.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from masterd.assembly import build_parts
from masterd.election.campaign import MasterIdentity
from masterd.settings import MasterSettings
from masterd.state_machine.batch import SNAPSHOT_RESTORE, CommandOutcome, CommandRequest, outcome_question
from masterd.term.leader import Leader, LeaderSettings
from masterd.term.retention import RetentionSettings
from nodestore.cluster.election import resign
from nodestore.errors import NodectlError, OutcomeUnknown, TimedOut, TooOld, Unavailable
from nodestore.etcd.session import Etcd, EtcdSettings, op_delete, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, Epoch, Inventory, Status, StoreMark
from nodestore.support.jsonio import Document, Json
from tests.faults.checkers.history import Event
from tests.simulation.app import NODES, SimApp
from tests.simulation.branches.beats import address_of, session_of
from tests.simulation.node import Node
from tests.simulation.reader import Reader
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import MEMBERS, FakeEtcd
from tests.support.fakes.link import FINE, Fate, Link
from tests.support.fakes.mvcc import Backup
from tests.support.waiting import eventually

T = TypeVar("T")

AGAIN = (Unavailable, OutcomeUnknown, TimedOut)
"""Errors after which a client retries with the same id. LeadershipLost is a kind of Unavailable."""

_LATENCY_S = 0.0005
_RETRY_S = 0.05
_STRAY_S = 4.0  # every late message has arrived by then
_PATIENCE_S = 30.0
_SMALL = LeaderSettings(
    max_txn_ops=6,  # a commit and two views
    retention=RetentionSettings(snapshot_every_commands=6, check_every_s=0.3, keep_ids=False, snapshot_after_s=0.3),
)
"""Limits so small that snapshots, truncation and views in chunks occur in every run."""


@dataclass
class ClientCommand:
    """A command as its client saw it. Times are seconds of the run; `index` and `result` are set once acknowledged."""

    id: str
    name: str
    args: dict[str, Any]
    sent: float
    ended: float | None = None
    index: int = 0
    result: Json = None
    refused: NodectlError | None = None
    after: int = 0
    tries: int = 0
    open: bool = False
    """Whether the outcome of some attempt is unknown."""
    repeated: bool = False
    """Whether the answer was that of an earlier attempt."""


@dataclass
class Asked:
    """The answer to the question what became of a command. index: of the command, or of the record that closed it."""

    id: str
    sent: float
    ended: float
    took_effect: bool
    index: int
    result: Json = None


@dataclass
class Read:
    """A linearizable read: the index of the state that it returned, and the documents."""

    sent: float
    ended: float
    index: int
    documents: dict[str, Document]


class Disk:
    """A state directory: keeps the mark of the store over restarts of its masterd."""

    def __init__(self) -> None:
        self.mark: StoreMark | None = None

    def load(self) -> StoreMark | None:
        return self.mark

    async def save(self, mark: StoreMark) -> None:
        self.mark = mark


class Pc:
    """A PC with one masterd, which has its own link to the store."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.link = Link(world.server, latency_s=_LATENCY_S)
        self.link.fates = self._fate
        self.etcd = Etcd(
            EtcdSettings(endpoints=MEMBERS, call_timeout_s=0.8, attempt_timeout_s=0.25), connect=self.link.connect
        )
        world.starts += 1
        self.parts = build_parts(
            self.etcd, world.keys, MasterIdentity(name, name, world.urls_of(name), 0, f"{name}-{world.starts}"),
            world.application(),
            MasterSettings(leader=world.settings, lease_ttl_s=world.lease_ttl_s, remember=world.disk_of(name)),
            wall_clock=lambda: world.time.wall_clock() + world.clock_off_s.get(name, 0), open_session=session_of(world),
        )  # fmt: skip
        self.silent = False
        """Whether the other masterds receive nothing from this PC: it has no power, or its network is down."""
        self.master = self.parts.master
        self.crashed = False
        self._world = world
        self.life = asyncio.get_running_loop().create_task(self.master.run(), name=f"masterd {name}")
        self.life.add_done_callback(self._ended)

    @property
    def leader(self) -> Leader | None:
        """The leader of this masterd, while it serves."""
        leader = self.parts.leadership.leader
        return leader if leader is not None and leader.serving.is_set() and not self.crashed else None

    def _fate(self, method: str, request: Any) -> Fate:
        if self.crashed:
            return Fate(sent=False)
        return self._world.fate(self, method, request)

    def crash(self) -> None:
        """Kill the process: what it has sent still arrives, nothing follows. May be called from any callback."""
        if self.crashed:
            return
        self.crashed = True
        self._world.running.pop(self.name, None)
        self._world.tasks.add(asyncio.get_running_loop().create_task(self._end()))

    async def _end(self) -> None:
        self.life.cancel()
        self.link.down = True
        await self.etcd.close()
        await asyncio.wait((self.life,))

    def _ended(self, life: asyncio.Task[Any]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None and not self.crashed:
            self._world.program_errors.append(
                f"{self.name} ended unexpectedly: {''.join(traceback.format_exception(error))}"
            )


def no_fault(pc: Pc, method: str, request: Any) -> Fate:
    return FINE


@dataclass
class World:
    """The whole simulated cluster. Every method that waits uses virtual time."""

    time: VirtualTime
    settings: LeaderSettings = _SMALL
    lease_ttl_s: int = MasterSettings.lease_ttl_s
    beat_s: float = 0.0
    """Interval of the leader's heartbeats; 0: masterds have no addresses, so standbys wait for the lease to expire."""
    keys: Keys = field(default_factory=lambda: Keys("simulated"))
    application: Callable[[], SimApp] = SimApp
    running: dict[str, Pc] = field(default_factory=dict)
    commands: list[ClientCommand] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    program_errors: list[str] = field(default_factory=list)
    """Errors of the programs themselves, such as a masterd that ended."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    fate: Callable[[Pc, str, Any], Fate] = no_fault
    starts: int = 0
    nodes: dict[str, Node] = field(default_factory=dict)
    starts_of_nodes: int = 0
    clock_off_s: dict[str, float] = field(default_factory=dict)
    """By masterd: by how many seconds the clock of its PC is ahead."""
    readers: list[Reader] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    """What nodes obeyed and readers received, in the format of `tests.faults.checkers.history_checks`."""
    disks: dict[str, Disk] | None = None
    """What each masterd remembers over restarts, by name; None: nothing."""
    _numbers: int = 0
    _configured: int = 0
    _asked: Pc | None = None
    """The leader that reads are sent to."""

    def __post_init__(self) -> None:
        self.server = FakeEtcd(max_txn_ops=max(16, self.settings.max_txn_ops))
        self.witness = Etcd(EtcdSettings(endpoints=MEMBERS[:1]), connect=self.server.connect)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.time.run(coroutine)

    def urls_of(self, name: str) -> tuple[str, ...]:
        return (address_of(name),) if self.beat_s else ()

    def disk_of(self, name: str) -> Callable[[str], Disk] | None:
        if self.disks is None:
            return None
        disk = self.disks.setdefault(name, Disk())
        return lambda cluster: disk

    def replace_store(self, backup: Backup | None, *, cluster_id: int, bump: int = 0) -> None:
        """Stop etcd, put another store in its place, and start it. Every connection breaks."""
        links = [*(pc.link for pc in self.running.values()), *(node.link for node in self.nodes.values())]
        for link in links:
            link.cut()
        self.server.replace(backup, cluster_id=cluster_id, bump=bump)
        for link in links:
            link.listen()

    @property
    def leader(self) -> Pc | None:
        """The PC that believes that it leads; of several, the one with the newest term."""
        leading = [pc for pc in self.running.values() if pc.leader is not None]
        return max(leading, key=lambda pc: pc.leader.fence.term if pc.leader else (0, 0), default=None)

    async def start(self, *names: str) -> None:
        for name in names:
            if name not in self.running:
                self.running[name] = Pc(self, name)

    def record_event(self, process: str, op: str, **fields: Any) -> None:
        """Record an observation at the present time."""
        self.events.append(Event(asyncio.get_running_loop().time(), process, "seen", None, op, fields))

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = _PATIENCE_S) -> None:
        await eventually(condition, lambda: f"{what}; {self.program_errors}", timeout_s=timeout_s)

    async def serving(self) -> Pc:
        await self.until(lambda: self.leader is not None, "a leader serves")
        assert self.leader is not None
        return self.leader

    # --- clients ---

    async def command(
        self,
        name: str,
        args: dict[str, Any],
        *,
        once: bool = False,
        patience_s: float = _PATIENCE_S,
        after: int | None = None,
    ) -> ClientCommand:
        """Send a command to the leader, and retry after every transient error until it is acknowledged or refused.

        The client gives up after `patience_s`. after: the index that it knows; by default the newest acknowledged
        one. once: it does not retry after an error that says that nothing happened.
        If the outcome of an earlier attempt is unknown it retries all the same: the error says nothing about that one.
        """
        now = asyncio.get_running_loop().time
        self._numbers += 1
        known = max((command.index for command in self.commands), default=0) if after is None else after
        command = ClientCommand(f"cmd-{self._numbers}", name, args, now(), after=known)
        self.commands.append(command)
        deadline = now() + patience_s
        while now() < deadline:
            outcome = await self._try(command)
            if outcome is None or isinstance(outcome.error, AGAIN):
                command.open = command.open or outcome is None or isinstance(outcome.error, OutcomeUnknown | TimedOut)
                if outcome is None or not once or command.open or not command.tries:
                    await asyncio.sleep(_RETRY_S)
                    continue
            if command.open and isinstance(outcome.error, TooOld):
                return command  # an earlier attempt may have taken effect and have been forgotten
            command.ended = now()
            command.index, command.result, command.refused = outcome.index, outcome.result, outcome.error
            command.repeated = outcome.repeated
            return command
        return command

    async def _try(self, command: ClientCommand) -> CommandOutcome | None:
        """The outcome of one attempt; None if the masterd crashed before it answered."""
        if self.leader is not None:
            command.tries += 1
        return await self._submit(CommandRequest(command.id, command.name, command.args, "client", command.after))

    async def _submit(self, request: CommandRequest) -> CommandOutcome | None:
        pc = self.leader
        if pc is None or pc.leader is None:
            return CommandOutcome(request.id, error=Unavailable("there is no leader"))
        try:
            (outcome,) = await pc.leader.submit([request])
        except AGAIN as error:
            outcome = CommandOutcome(request.id, error=error)
        return None if pc.crashed else outcome

    async def repeat(self, command: ClientCommand) -> CommandOutcome | None:
        """Let one late copy of this command reach the leader; return its outcome. It may acknowledge the command."""
        outcome = await self._try(command)
        if outcome is not None and outcome.error is None and command.ended is None:
            command.ended, command.index = asyncio.get_running_loop().time(), outcome.index
            command.result, command.repeated = outcome.result, outcome.repeated
        return outcome

    async def ask(self, command: ClientCommand, *, patience_s: float = _PATIENCE_S) -> Asked | None:
        """Ask what became of this command until that is answered; None if the client gives up or it cannot be known."""
        now = asyncio.get_running_loop().time
        sent = now()
        while now() < sent + patience_s:
            outcome = await self._submit(outcome_question(command.id, command.after, "client"))
            if outcome is not None and outcome.error is None:
                asked = Asked(command.id, sent, now(), not outcome.closed, outcome.index, outcome.result)
                self.asked.append(asked)
                return asked
            if outcome is not None and not isinstance(outcome.error, AGAIN):
                return None
            await asyncio.sleep(_RETRY_S)
        return None

    async def read(self) -> None:
        """Perform a linearizable read, if the leader can confirm it.

        The client stays with the leader that it knows as long as that one believes that it leads.
        """
        now = asyncio.get_running_loop().time
        if self._asked is None or self._asked.leader is None:
            self._asked = self.leader
        sent, pc = now(), self._asked
        if pc is None or pc.leader is None:
            return
        try:
            await pc.leader.confirm_read()
        except NodectlError:
            self._asked = None
            return
        if not pc.crashed:
            state = pc.parts.replica.state
            documents = {path: doc.value for path, doc in state.documents.items()}
            self.reads.append(Read(sent, now(), state.index, documents))

    async def save(self, name: str) -> None:
        """Write a named snapshot, unless it fails."""
        pc = self.leader
        if pc is not None and pc.leader is not None:
            try:
                await pc.leader.archive.save(name)
            except NodectlError:
                return

    async def restore(self, **what: Any) -> ClientCommand:
        return await self.command(SNAPSHOT_RESTORE, what)

    async def configure(self, nodes: int, colour: str) -> None:
        """Write `config/current`, as nodectl does."""
        self._configured += 1
        inventory = Inventory.model_validate(
            {"nodes": {node: {} for node in NODES[:nodes]}, "defaults": {"document": {"colour": colour}}}
        )
        record = ConfigRecord(
            version=self._configured, actor="admin", time=0.0, inventory=inventory.model_dump(mode="json")
        )
        await self.witness.put(self.keys.config_current, record.encode())

    async def switchover(self) -> None:
        """Let another masterd take over from the leader, if there is one."""
        leading = self.leader
        others = [pc for pc in self.running.values() if pc is not leading]
        if leading is None or leading.leader is None or not others:
            return
        try:
            await others[0].parts.campaign.take_over_from(leading.leader.fence.term.revision, "test", 2.0)
        except NodectlError:
            return

    def later(self, delay_s: float, what: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Schedule `what` after `delay_s` seconds; `settle` waits for it."""

        async def wait() -> None:
            await asyncio.sleep(delay_s)
            await what()

        self.tasks.add(asyncio.get_running_loop().create_task(wait()))

    async def stop_leader(self) -> None:
        """Stop the leader in order: it finishes the queued commands and resigns, then its process ends."""
        pc = self.leader
        if pc is None or pc.leader is None:
            return
        if self.beat_s:  # `stand_down` would hand over through HTTP, and this network carries heartbeats only
            with suppress(NodectlError):
                pc.leader.close_for_handover()
                await pc.leader.wait_drained()
                await resign(pc.etcd, self.keys, pc.leader.fence, "test")
        else:
            await pc.master.stand_down("test")
        pc.crash()

    async def report(self, node: str, phase: str) -> None:
        """Write the status of a node."""
        status = Status.model_validate({"node": node, "nonce": "n", "host": node, "phase": phase})
        await self.witness.put(self.keys.status_of(node), status.encode())

    async def pause(self, paused: bool) -> None:
        """Set or clear `paused`, which forbids automatic takeovers."""
        op = op_put(self.keys.paused, b'{"v":1,"actor":"admin","time":0}') if paused else op_delete(self.keys.paused)
        await self.witness.txn([], [op])

    async def begin_epoch(self, epoch: int) -> None:
        """Write this epoch and delete `leader`, as `nodectl recover` does."""
        ops = [op_put(self.keys.epoch, Epoch(epoch=epoch).encode()), op_delete(self.keys.leader)]
        await self.witness.txn([], ops)

    # --- the end ---

    async def settle(self) -> None:
        """End all faults and wait until both masterds run, a leader serves, and all replicas are equally far."""
        self.fate = no_fault
        for pc in tuple(self.running.values()):
            pc.link.forward()
            pc.link.listen()
            pc.silent = False
        await self.pause(False)
        await asyncio.sleep(_STRAY_S)
        await self.start("m1", "m2")
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=_PATIENCE_S)
        await self.until(self._quiet, "a leader serves, and all replicas are at its index")
        last = await self.command("append", {"path": "lists/end", "item": "end"})
        assert last.index, f"the cluster accepts no commands any more: {last}"
        await asyncio.sleep(1.0)
        await self.until(self._quiet, "a leader serves, and all replicas are at its index")

    def _quiet(self) -> bool:
        leader = self.leader
        if leader is None:
            return False
        index = leader.parts.replica.index
        return all(pc.parts.replica.index == index for pc in self.running.values())

    async def close(self) -> None:
        for node in self.nodes.values():
            await node.end()
        for reader in self.readers:
            await reader.end()
        for pc in tuple(self.running.values()):
            pc.crash()
        await asyncio.gather(*self.tasks)
        await self.witness.close()
