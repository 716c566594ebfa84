"""Runs in which standbys receive heartbeats, ids are forgotten soon, and each episode leads to a rare branch.

The other runs (`storm`) have no heartbeats: there a takeover follows an expired lease, a resignation or an order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from masterd.term.leader import LeaderSettings
from masterd.term.retention import RetentionSettings
from masterd.upkeep.store_budget import StoreBudget
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.schema.models import Epoch
from tests.faults.network.proxy import Mode
from tests.simulation.faults import KINDS, LOST_IN_DOUBT, CallFault, puts, puts_have
from tests.simulation.node import Node
from tests.simulation.storm import MASTERS, Storm
from tests.simulation.world import Pc, World, no_fault
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.link import DENIED, FINE, LOST, UNHEARD, Fate

_BEAT_S = 0.1
_EPISODES = 8
_SMALL = LeaderSettings(
    max_txn_ops=6,
    retention=RetentionSettings(snapshot_every_commands=6, check_every_s=0.3, snapshot_after_s=0.3),
    budget=StoreBudget(
        ids_bytes_max=3_000, state_bytes_max=60_000, journal_bytes_max=60_000, kept_bytes_max=60_000, named_max=4
    ),
)
"""So small that ids are forgotten after a dozen commands, and the journal is truncated as far as they allow."""
_ATTEMPT_S = 2.1  # one attempt of a commit
_LEASE_S = 3.0  # the leader's lease has expired by then


class Failovers(Storm):
    """One run. Every episode occurs in some of the seeds; each run has _EPISODES of them."""

    @classmethod
    def make_world(cls, time: VirtualTime) -> World:
        return World(time, settings=_SMALL, beat_s=_BEAT_S)

    def _drawn(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Episodes in a row of all, beginning at a place that the seed decides: a few seeds have all of them."""
        episodes = [
            self.process_dies, self.power_fails, self.standby_hears_nothing, self.leader_cannot_reach_etcd,
            self.dies_while_paused, self.restarts_alone, self.takeover_gets_no_reply, self.commit_is_given_up,
            self.term_is_given_up, self.action_expires, self.late_client, self.recover, self.restore,
            self.configuration_is_replaced, self.replica_lags, self.fault_at_a_call, self.stop,
            self.commit_gets_no_reply, self.leader_dies_after_a_commit, self.deposed_in_doubt,
            self.deposed_before_a_commit, self.snapshot_is_cut_short,
        ]  # fmt: skip
        first = self.seed * _EPISODES
        for number in range(first, first + _EPISODES):
            yield episodes[number % len(episodes)]

    # --- leaders that fail ---

    async def process_dies(self) -> None:
        """The PC refuses connections, so its standby takes over at once."""
        pc = await self._leader_with_listener()
        self._note(f"the process of {pc.name} dies")
        pc.crash()
        await self._pass((0.3, 1.0))

    async def power_fails(self) -> None:
        """Nothing more is heard from the PC, and nothing that it was sent arrives."""
        pc = await self._leader_with_listener()
        self._note(f"the power of {pc.name} fails")
        pc.silent = True
        pc.link.set(up=Mode.DROP, down=Mode.DROP)
        await asyncio.sleep(1.5)
        pc.crash()

    async def standby_hears_nothing(self) -> None:
        """Heartbeats are lost, but both reach etcd: the leader answers the challenge and stays."""
        pc = await self._leader_with_listener()
        self._note(f"no standby hears {pc.name}")
        pc.silent = True
        self._ask()
        await asyncio.sleep(1.5)
        pc.silent = False

    async def leader_cannot_reach_etcd(self) -> None:
        """Its heartbeats go on, and say that it cannot commit."""
        pc = await self._leader_with_listener()
        self._note(f"{pc.name} cannot reach etcd")
        pc.link.set(up=Mode.HOLD, down=Mode.HOLD)
        self._ask()
        await asyncio.sleep(2.5)
        pc.link.forward()

    async def dies_while_paused(self) -> None:
        """Its lease expires before a takeover is allowed."""
        pc = await self._leader_with_listener()
        self._note(f"{pc.name} dies during a pause")
        await self.world.pause(True)
        pc.crash()
        await asyncio.sleep(_LEASE_S)
        await self.world.pause(False)

    async def restarts_alone(self) -> None:
        """The only masterd dies and starts again within its lease."""
        pc = await self._leader_with_listener()
        self._note(f"{pc.name} alone is restarted")
        for other in tuple(self.world.running.values()):
            other.crash()
        await self.world.start(pc.name)
        await self.world.serving()

    async def takeover_gets_no_reply(self) -> None:
        """All replies of takeovers are lost, until the winner has seen in `leader` that it has won."""
        pc = await self._leader_with_listener()
        self._note(f"{pc.name} dies, and the takeover gets no reply")
        self.world.fate = partial(puts_have, UNHEARD, self.world.keys.leader)
        pc.crash()
        await asyncio.sleep(1.5)
        self.world.fate = no_fault

    # --- commits in doubt ---

    async def commit_is_given_up(self) -> None:
        """A commit gets no reply, and etcd refuses its repeat."""
        await self._refuse_after_silence(1)

    async def term_is_given_up(self) -> None:
        """etcd refuses the empty commit too."""
        await self._refuse_after_silence(1 << 20)

    async def _refuse_after_silence(self, refusals: int) -> None:
        pc = await self._leader_with_listener()
        self._note(f"a commit of {pc.name} is lost, then {refusals} are refused")
        head, loop, left = self.world.keys.head, asyncio.get_running_loop(), [refusals]
        silent_until = loop.time() + _ATTEMPT_S

        def fate(who: Pc, method: str, request: Any) -> Fate:
            if who is not pc or not puts(request, head):
                return FINE
            if loop.time() < silent_until:
                return LOST
            left[0] -= 1
            return DENIED if left[0] >= 0 else FINE

        self.world.fate = fate
        self._ask()
        await asyncio.sleep(2 * _ATTEMPT_S)
        self.world.fate = no_fault
        await asyncio.sleep(1.0)

    async def commit_gets_no_reply(self) -> None:
        """The repeat of the same transaction finds that the first copy has landed."""
        await self._at_commit("a commit gets no reply", lambda pc: UNHEARD)

    async def leader_dies_after_a_commit(self) -> None:
        """Its clients repeat their commands, and get the first results from the next leader."""
        await self._at_commit("the leader dies after a commit", lambda pc: Fate(replied=False, then=pc.crash))

    async def deposed_in_doubt(self) -> None:
        """A commit is lost, and another leader commits at its index: its outcome stays unknown.

        If it had landed, its entry would show that.
        """
        await self._deposed_at_a_commit(LOST_IN_DOUBT)

    async def deposed_before_a_commit(self) -> None:
        """A commit arrives when another has just taken over, and has not committed yet: it was not done."""
        await self._deposed_at_a_commit(KINDS[-2])

    async def _deposed_at_a_commit(self, kind: str) -> None:
        await self._leader_with_listener()
        self._note(kind)
        CallFault(kind, 0, commits=True).arm(self.world)
        self._ask()
        await asyncio.sleep(2.0)

    async def snapshot_is_cut_short(self) -> None:
        """The leader dies before the manifest: the next one deletes the chunks."""
        await self._leader_of_two()
        self._note("the leader dies while it writes a snapshot")
        world = self.world

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            if any(op.request_put.key.endswith(b"/manifest") for op in getattr(request, "success", ())):
                world.fate = no_fault
                return Fate(arrives=False, then=pc.crash)
            return FINE

        world.fate = fate
        for _ in range(4):
            self._ask()
            await asyncio.sleep(0.5)
        world.fate = no_fault

    async def _at_commit(self, what: str, fate_of: Callable[[Pc], Fate]) -> None:
        """The next commit has this fate."""
        await self._leader_with_listener()
        self._note(what)
        world, head = self.world, self.world.keys.head

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            if not puts(request, head):
                return FINE
            world.fate = no_fault
            return fate_of(pc)

        world.fate = fate
        self._ask()
        await asyncio.sleep(1.0)
        world.fate = no_fault

    # --- what is forgotten, and what expires ---

    async def action_expires(self) -> None:
        """No noded of the simulation begins this action: its node is dead."""
        await self._leader_of_two()
        self._note("an action expires")
        await self.world.nodes["n1"].end()
        self.world.later(0.0, partial(self.world.command, "act", {"node": "n1", "expires_s": 0.3}))
        await asyncio.sleep(2.0)
        self.world.nodes["n1"] = Node(self.world, "n1")

    async def late_client(self) -> None:
        """Many commands, then one of a client that knows an index below the floor, and one that is sent twice."""
        await self._leader_of_two()
        self._note("a late client")
        for _ in range(5):
            self._ask()
            await asyncio.sleep(0.2)
        self.world.later(0.0, partial(self.world.command, *self._command(), after=0))
        await self._pass((0.5,))

    # --- operators ---

    async def recover(self) -> None:
        """As `nodectl recover` with a backup that holds everything: the epoch grows, and `leader` is deleted.

        One masterd is frozen meanwhile and wakes afterwards, although all should have been stopped.
        """
        pc = await self._leader_of_two()
        frozen = self.dice.choice((pc, None))
        self._note(f"the store is recovered{f', while {pc.name} is frozen' if frozen else ''}")
        await self.world.nodes["n2"].end()
        await self.world.command("act", {"node": "n2", "expires_s": 60.0}, patience_s=1.0)
        for other in tuple(self.world.running.values()):
            if other is not frozen:
                other.crash()
        if frozen is not None:
            frozen.silent = True
            frozen.link.set(up=Mode.HOLD, down=Mode.HOLD)
            await asyncio.sleep(0.1)
        await self._begin_epoch()
        await self._pass((0.1, 1.0))
        if frozen is not None:
            frozen.silent = False
            frozen.link.forward()
        await self.world.start(*MASTERS)
        self.world.nodes["n2"] = Node(self.world, "n2")

    async def _begin_epoch(self) -> None:
        found = self.world.server.store.range(pb.RangeRequest(key=self.world.keys.epoch.encode())).kvs
        await self.world.begin_epoch(Epoch.model_validate_json(found[0].value).epoch + 1)

    async def restore(self) -> None:
        """Save, change, restore."""
        await self._leader_of_two()
        self._note("a snapshot is saved and restored")
        name = f"saved-{self.dice.randrange(1 << 30)}"
        await self.world.save(name)
        self._ask()
        await self._pass()
        self.world.later(0.0, partial(self.world.restore, snapshot=name))
        await self._pass((0.5,))

    async def configuration_is_replaced(self) -> None:
        """Another configuration is applied just before the commit that adopts one."""
        await self._leader_of_two()
        self._note("a configuration is replaced during its adoption")
        world, key = self.world, self.world.keys.config_current.encode()

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            if any(compare.key == key for compare in getattr(request, "compare", ())):
                world.fate = no_fault
                found = world.server.store.range(pb.RangeRequest(key=key)).kvs[0].value
                world.server.store.put(pb.PutRequest(key=key, value=found))
            return FINE

        world.fate = fate
        await self.configure()
        await asyncio.sleep(1.0)
        world.fate = no_fault

    async def replica_lags(self) -> None:
        """A standby is cut off while the journal is truncated beyond what it holds."""
        leader = await self._leader_of_two()
        other = next(pc for pc in self.world.running.values() if pc is not leader)
        self._note(f"{other.name} lags behind a truncation")
        other.link.cut()
        for _ in range(6):
            self._ask()
            await asyncio.sleep(0.7)
        if not other.crashed:
            other.link.listen()

    async def _leader_with_listener(self) -> Pc:
        """The leader, once its standby has received heartbeats."""
        pc = await self._leader_of_two()
        await asyncio.sleep(1.0)
        return self.world.leader or pc
