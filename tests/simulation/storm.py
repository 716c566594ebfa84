"""A run decided by a seed: clients, nodes and readers at work under a sequence of faults.

The mix of faults is weighted towards those that the guarantees exist for: late copies of transactions, lost replies to
clients that retry, leaders that freeze and continue under a successor, winners that resign while a copy of their
takeover is still in flight, members that return an older desired state to a node.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.faults.network.proxy import Mode
from tests.simulation.app import NODES
from tests.simulation.branches.taken import Branches
from tests.simulation.checkers import verdicts
from tests.simulation.faults import KINDS, CallFault, puts
from tests.simulation.node import Node
from tests.simulation.reader import Reader
from tests.simulation.world import Pc, World, no_fault
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.link import FINE, Fate

EPISODES = 10
MASTERS = ("m1", "m2")
_CALLS_MAX, _COMMITS_MAX = 6, 2
_KINDS = (*KINDS, KINDS[1], KINDS[1], KINDS[-1])
"""Faults after which a client repeats a command that has taken effect are more frequent."""
_MOMENTS_S = (0.002, 0.01, 0.1, 0.5)
_FREEZES_S = (0.3, 1.0, 3.0, 4.0)
_SUSPECTED_S = 0.2
_READS_S = (0.3, 0.6, 0.9, 1.2)
"""Times of reads sent to a leader after it was frozen."""
_SETTLED_S = 20.0


@dataclass
class Storm:
    """One run. log: the faults and their times, for analysis."""

    world: World
    seed: int
    dice: random.Random = field(init=False)
    log: list[str] = field(default_factory=list)
    _items: int = 0

    @classmethod
    def make_world(cls, time: VirtualTime) -> World:
        """Return the cluster of such a run."""
        return World(time)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    async def run(self) -> None:
        """Run all episodes and wait for rest. AssertionError if the cluster does not come to rest."""
        await self.begin()
        for episode in self._drawn():
            self._ask()
            await episode()
        await self.rest()

    def _drawn(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """The episodes of this run, each drawn when the one before it has ended."""
        names, weights = zip(*self._episodes().items(), strict=True)
        for _ in range(EPISODES):
            yield self.dice.choices(names, weights)[0]

    async def begin(self) -> None:
        """Start masterds, nodes and a reader, and wait until a leader serves."""
        world = self.world
        await world.start(*MASTERS)
        await world.configure(len(NODES), "red")
        world.nodes.update({name: Node(world, name) for name in NODES})
        world.readers.append(Reader(world, "reader", self.seed))
        await world.serving()

    def _episodes(self) -> dict[Callable[[], Awaitable[None]], int]:
        return {
            self.calm: 2, self.fault_at_a_call: 7, self.leader_freezes: 2, self.cut: 1, self.crash: 1,
            self.switchover: 1, self.stop: 1, self.winner_resigns_alone: 3, self.node_reads_the_past: 4,
            self.node_dies: 1, self.configure: 1,
        }  # fmt: skip

    # --- clients ---

    def _ask(self, most: int = 4) -> None:
        """Send up to `most` commands and perhaps a read, each from a client of its own, concurrently."""
        for _ in range(self.dice.randint(1, most)):
            name, args = self._command()
            once, patience_s = self.dice.random() < 0.25, self.dice.choice((0.3, 20.0, 20.0))
            self.world.later(0.0, partial(self.world.command, name, args, once=once, patience_s=patience_s))
        if self.dice.random() < 0.4:
            self.world.later(self.dice.choice(_MOMENTS_S), self.world.read)

    def _command(self) -> tuple[str, dict[str, Any]]:
        self._items += 1
        path = f"lists/{self.dice.randrange(2)}"
        name = self.dice.choices(("append", "put", "delete", "refuse", "act"), (6, 4, 1, 1, 1))[0]
        match name:
            case "append":
                return name, {"path": path, "item": str(self._items)}
            case "put":
                return name, self._order(self.dice.choice(NODES))
            case "act":
                return name, {"node": self.dice.choice(NODES), "expires_s": 60.0}
        return name, {"path": path}

    def _order(self, node: str) -> dict[str, Any]:
        self._items += 1
        return {"path": f"nodes/{node}", "document": {"x": self._items}}

    # --- what goes wrong ---

    def _note(self, line: str) -> None:
        self.log.append(f"{asyncio.get_running_loop().time():9.3f} {line}")

    async def _pass(self, among: tuple[float, ...] = _MOMENTS_S) -> None:
        await asyncio.sleep(self.dice.choice(among))

    async def _leader_of_two(self) -> Pc:
        """Make sure that two masterds run and one of them serves; return the leader."""
        await self.world.start(*MASTERS)
        return await self.world.serving()

    async def calm(self) -> None:
        self._note("calm")
        await self._pass()

    async def fault_at_a_call(self) -> None:
        await self._leader_of_two()
        kind, commits = self.dice.choice(_KINDS), self.dice.random() < 0.5
        number = self.dice.randrange(_COMMITS_MAX if commits else _CALLS_MAX)
        self._note(f"{kind}, {'commit' if commits else 'call'} {number}")
        fault = CallFault(kind, number, commits)
        fault.arm(self.world)
        self._ask()
        await self._pass((*_MOMENTS_S, 2.5))
        self._note(f"   the call was {fault.hit[:60]}")

    async def leader_freezes(self) -> None:
        """Freeze the leader, perhaps until a successor leads: everything that it sends and receives is held."""
        pc, seconds = await self._leader_of_two(), self.dice.choice(_FREEZES_S)
        self._note(f"{pc.name} is frozen for {seconds} s")
        pc.link.set(up=Mode.HOLD, down=Mode.HOLD)
        self._ask()
        asyncio.get_running_loop().call_later(seconds, pc.link.forward)
        if self.dice.random() < 0.5:  # a takeover on suspicion; otherwise its lease expires first, which it notices
            self.world.later(_SUSPECTED_S, self.world.switchover)
            for _ in range(3):
                self.world.later(2 * _SUSPECTED_S, partial(self.world.command, *self._command()))
        for at in _READS_S:
            self.world.later(at, self.world.read)
        await self._pass((0.1, 1.0, 4.0))

    async def cut(self) -> None:
        pc, seconds = await self._leader_of_two(), self.dice.choice(_FREEZES_S)
        self._note(f"{pc.name} is cut off for {seconds} s")
        pc.link.cut()
        asyncio.get_running_loop().call_later(seconds, lambda: None if pc.crashed else pc.link.listen())
        await self._pass()

    async def crash(self) -> None:
        pc = await self._leader_of_two()
        await self._pass((0.001, 0.002, 0.01))
        self._note(f"{pc.name} crashes")
        pc.crash()
        await self._pass((0.1, 3.0))

    async def switchover(self) -> None:
        await self._leader_of_two()
        self._note("switchover")
        await self.world.switchover()

    async def stop(self) -> None:
        await self._leader_of_two()
        self._note("the leader stops in order")
        await self.world.stop_leader()
        await self._pass()

    async def winner_resigns_alone(self) -> None:
        """A single masterd wins and resigns, while a late copy of its takeover transaction is in flight."""
        leader, late_s = await self._leader_of_two(), self.dice.uniform(0.05, 1.5)
        for pc in list(self.world.running.values()):
            if pc is not leader:
                pc.crash()
        await self.world.stop_leader()
        self.world.fate = partial(self._late_takeover, late_s)
        name = self.dice.choice(MASTERS)
        self._note(f"{name} takes over and resigns; a copy of the takeover is {late_s:.2f} s late")
        await self.world.start(name)
        await self.world.serving()
        self._ask(2)
        await asyncio.sleep(self.dice.uniform(0.01, 0.5))
        await self.world.stop_leader()
        await self._pass((0.2, 1.0, 1.5))

    def _late_takeover(self, late_s: float, pc: Pc, method: str, request: Any) -> Fate:
        if puts(request, self.world.keys.leader):
            self.world.fate = no_fault
            return Fate(late_s=late_s)
        return FINE

    async def node_reads_the_past(self) -> None:
        await self._leader_of_two()
        node, back = self.world.nodes[self.dice.choice(NODES)], self.dice.randint(1, 2)
        self._note(f"{node.name} is cut off, then reads the order before the last {back}")

        async def orders() -> None:
            for _ in range(2):
                await self.world.command("put", self._order(node.name), patience_s=1.0)

        await node.lag_behind(back, orders)
        await self._pass((0.1, 0.5, 1.0))

    async def node_dies(self) -> None:
        """Kill a noded and start a new one."""
        name = self.dice.choice(NODES)
        self._note(f"noded {name} is killed")
        await self.world.nodes[name].end()
        await self._pass()
        self.world.nodes[name] = Node(self.world, name)

    async def configure(self) -> None:
        nodes, colour = self.dice.randint(2, len(NODES)), self.dice.choice(("red", "blue"))
        self._note(f"{nodes} nodes, {colour}")
        await self.world.configure(nodes, colour)
        await self._pass()

    # --- the end ---

    async def rest(self) -> None:
        """End all faults; wait until all nodes have converged and readers have received all events."""
        world = self.world
        for node in world.nodes.values():
            node.link.listen()
        await world.settle()
        await world.until(self._at_rest, "nodes have converged, readers have received all events", _SETTLED_S)

    def _at_rest(self) -> bool:
        leader = self.world.leader
        if leader is None:
            return False
        cluster_view, state = leader.parts.cluster_view, leader.parts.replica.state
        wanted = {node: mark.generation for node, mark in state.specs.items()}
        there = all(
            (status := cluster_view.status.items.get(node)) is not None
            and status.observed_generation == generation
            and status.phase == "ready"
            for node, generation in wanted.items()
        )
        return there and all(reader.index >= state.index for reader in self.world.readers)


@dataclass
class RunResult:
    """The result of a run. wrong: the findings by checker. written: every put, to compare two runs. branches: see
    `tests.simulation.branches.taken`."""

    seed: int
    wrong: dict[str, list[str]]
    log: list[str]
    written: list[tuple[bytes, bytes]]
    branches: Branches


def run_seed(seed: int, kind: type[Storm] | None = None) -> RunResult:
    """Execute the run of this seed and apply all checkers. kind: what happens in it; by default a Storm."""
    kind, branches = kind or Storm, Branches()
    with VirtualTime(seed) as time, branches.recording():
        world = kind.make_world(time)
        storm = kind(world, seed)
        wrong: dict[str, list[str]] = {}
        try:
            world.run(storm.run())
        except AssertionError as error:
            wrong["comes to rest"] = [str(error)]
        wrong |= verdicts(world)
        branches.read(world)
        world.run(world.close())
    if time.troubles:
        wrong["event loop"] = [str(trouble) for trouble in time.troubles]
    written = [(event.kv.key, event.kv.value) for _, events in world.server.store.log for event in events]
    return RunResult(seed, wrong, storm.log, written, branches)
