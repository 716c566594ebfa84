"""Random runs of a simulated cluster under commands and faults: all checkers of its history and views must pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from nodestore.errors import Compacted
from nodestore.etcd import maintenance
from tests.faults.network.proxy import Mode
from tests.simulation.app import NODES
from tests.simulation.checkers import problems
from tests.simulation.faults import KINDS, CallFault
from tests.simulation.world import Pc, World
from tests.support.fakes.clock import VirtualTime
from tests.support.profiles import cases

MASTERS = ("m1", "m2", "m3")
Asked = list[tuple[str, dict[str, Any]]]

LISTS = st.sampled_from(["lists/0", "lists/1"])
PATHS = st.sampled_from([f"nodes/{node}" for node in NODES])
DOCUMENTS = st.dictionaries(st.sampled_from("xy"), st.integers(0, 9), max_size=2)
COMMANDS = st.one_of(
    st.tuples(st.just("append"), st.fixed_dictionaries({"path": LISTS})),
    st.tuples(st.just("append"), st.fixed_dictionaries({"path": LISTS})),
    st.tuples(st.just("put"), st.fixed_dictionaries({"path": PATHS, "document": DOCUMENTS})),
    st.tuples(st.just("delete"), st.fixed_dictionaries({"path": LISTS | PATHS})),
    st.tuples(st.just("refuse"), st.fixed_dictionaries({"path": LISTS})),
    st.tuples(
        st.just("act"),
        st.fixed_dictionaries({"node": st.sampled_from(NODES), "expires_s": st.sampled_from([0.2, 60.0])}),
    ),
)
BUSY = st.lists(COMMANDS, min_size=1, max_size=6)
PATIENCE_S = st.sampled_from([0.3, 20.0])
MOMENTS_S = st.sampled_from([0.0005, 0.001, 0.002, 0.01, 0.1, 0.5, 2.5])
CALLS = st.integers(0, 7)
CRASHES, LOSSES, DEPOSALS = (st.sampled_from(kinds) for kinds in (KINDS[:3], KINDS[3:7], KINDS[7:]))
WHO = st.sampled_from(["leader", "leader", *MASTERS])


class AnyRun(RuleBasedStateMachine):
    """Each rule starts something and lets some time pass, so that it overlaps with what the next rule starts."""

    def __init__(self) -> None:
        super().__init__()
        self.time = VirtualTime()
        self.world = World(self.time)
        self.items = 0
        self.saved = 0

    @initialize(nodes=st.integers(0, 3), served=st.booleans(), busy=BUSY)
    def begin(self, nodes: int, served: bool, busy: Asked) -> None:
        self.world.run(self.world.start("m1", "m2"))
        if nodes:
            self.world.run(self.world.configure(nodes, "red"))
        self._ask(busy)
        if served:
            self.world.run(self.world.serving())

    # --- clients ---

    @rule(busy=BUSY, once=st.booleans(), patience_s=PATIENCE_S, moment_s=MOMENTS_S)
    def ask(self, busy: Asked, once: bool, patience_s: float, moment_s: float) -> None:
        """Commands arrive from several clients concurrently; some clients do not retry, some give up."""
        self._ask(busy, once=once, patience_s=patience_s)
        self._pass(moment_s)

    @rule(busy=BUSY, moment_s=MOMENTS_S)
    def read(self, busy: Asked, moment_s: float) -> None:
        self._ask(busy)
        self._later(self.world.read)
        self._pass(moment_s)
        self._later(self.world.read)

    @rule(nodes=st.integers(1, 3), colour=st.sampled_from(["red", "blue"]), moment_s=MOMENTS_S)
    def configure(self, nodes: int, colour: str, moment_s: float) -> None:
        self._later(partial(self.world.configure, nodes, colour))
        self._pass(moment_s)

    @rule(busy=BUSY, moment_s=MOMENTS_S)
    def save(self, busy: Asked, moment_s: float) -> None:
        self.saved += 1
        self._later(partial(self.world.save, f"saved-{self.saved}"))
        self._ask(busy)
        self._pass(moment_s)

    @rule(busy=BUSY, number=st.integers(1, 3), moment_s=MOMENTS_S)
    def restore_a_snapshot(self, busy: Asked, number: int, moment_s: float) -> None:
        self._later(partial(self.world.restore, snapshot=f"saved-{number}"))
        self._ask(busy)
        self._pass(moment_s)

    @rule(behind=st.integers(0, 10), busy=BUSY, moment_s=MOMENTS_S)
    def restore_an_index(self, behind: int, busy: Asked, moment_s: float) -> None:
        known = max((command.index for command in self.world.commands), default=0)
        self._later(partial(self.world.restore, index=max(1, known - behind)))
        self._ask(busy)
        self._pass(moment_s)

    @rule(node=st.sampled_from(NODES), phase=st.sampled_from(["ready", "failed"]))
    def hear_of_a_node(self, node: str, phase: str) -> None:
        self._later(partial(self.world.report, node, phase))
        self._pass(0.01)

    # --- faults and operators ---

    @rule(kind=CRASHES, number=CALLS, busy=BUSY, once=st.booleans(), moment_s=MOMENTS_S)
    def crash_at_a_call(self, kind: str, number: int, busy: Asked, once: bool, moment_s: float) -> None:
        """The leader crashes at a call to etcd."""
        self._fault_at_call(kind, number, busy, once, moment_s)

    @rule(kind=LOSSES, number=CALLS, busy=BUSY, once=st.booleans(), moment_s=MOMENTS_S)
    def lose_a_call(self, kind: str, number: int, busy: Asked, once: bool, moment_s: float) -> None:
        """A call of the leader or its reply is lost."""
        self._fault_at_call(kind, number, busy, once, moment_s)

    @rule(kind=DEPOSALS, number=CALLS, busy=BUSY, once=st.booleans(), moment_s=MOMENTS_S)
    def depose_at_a_call(self, kind: str, number: int, busy: Asked, once: bool, moment_s: float) -> None:
        """Another masterd takes over while a call of the leader is open."""
        self._fault_at_call(kind, number, busy, once, moment_s)

    def _fault_at_call(self, kind: str, number: int, busy: Asked, once: bool, moment_s: float) -> None:
        """Arm a fault, with a leader that it can hit and a standby."""
        if len(self.world.running) < 2:
            self.world.run(self.world.start(*MASTERS[:2]))
        if self.world.leader is None:
            self._pass(3.0)
        CallFault(kind, number).arm(self.world)
        self._ask(busy, once=once)
        self._pass(moment_s)

    @rule(who=WHO, busy=BUSY, moment_s=MOMENTS_S)
    def crash(self, who: str, busy: Asked, moment_s: float) -> None:
        self._ask(busy)
        self._pass(moment_s)
        pc = self._pc(who)
        if pc is not None:
            self._now(pc.crash)

    @rule(name=st.sampled_from(MASTERS), moment_s=MOMENTS_S)
    def start(self, name: str, moment_s: float) -> None:
        self.world.run(self.world.start(name))
        self._pass(moment_s)

    @rule(who=WHO, seconds=MOMENTS_S, up=st.booleans(), down=st.booleans(), busy=BUSY, moment_s=MOMENTS_S)
    def hold_up(self, who: str, seconds: float, up: bool, down: bool, busy: Asked, moment_s: float) -> None:
        """Everything that a masterd sends or receives, or both, is held for a while."""
        pc = self._pc(who)
        if pc is not None:
            pc.link.set(up=Mode.HOLD if up else None, down=Mode.HOLD if down else None)
            self._later(partial(self._forward, pc), seconds)
        self._ask(busy)
        self._pass(moment_s)

    async def _forward(self, pc: Pc) -> None:
        pc.link.forward()

    @rule(who=WHO, seconds=MOMENTS_S, busy=BUSY, moment_s=MOMENTS_S)
    def cut(self, who: str, seconds: float, busy: Asked, moment_s: float) -> None:
        """A masterd's connections break, and it cannot reconnect for a while."""
        self._ask(busy)
        self._pass(moment_s)
        pc = self._pc(who)
        if pc is not None:
            self._now(pc.link.cut)
            self._later(partial(self._listen, pc), seconds)

    async def _listen(self, pc: Pc) -> None:
        if not pc.crashed:
            pc.link.listen()

    @rule(busy=BUSY, moment_s=MOMENTS_S)
    def switch_over(self, busy: Asked, moment_s: float) -> None:
        self._ask(busy)
        self._later(self.world.switchover)
        self._pass(moment_s)

    @rule(busy=BUSY, moment_s=MOMENTS_S)
    def stop_in_order(self, busy: Asked, moment_s: float) -> None:
        """The leader finishes the queued commands and resigns; then its process ends."""
        self._ask(busy)
        self._later(self.world.stop_leader)
        self._pass(moment_s)

    @rule(seconds=MOMENTS_S | st.none(), behind=st.integers(0, 5) | st.none())
    def pause_and_compact(self, seconds: float | None, behind: int | None) -> None:
        """Automatic takeovers are paused for a while, and etcd is compacted."""
        if seconds is not None:
            self._later(partial(self.world.pause, True))
            self._later(partial(self.world.pause, False), seconds)
        if behind is not None:
            self._later(partial(self._compact, behind))

    async def _compact(self, behind: int) -> None:
        try:
            await maintenance.compact(self.world.witness, max(1, self.world.server.store.revision - behind))
        except Compacted:
            return

    # --- the end ---

    def teardown(self) -> None:
        try:
            self.world.run(self.world.settle())
            wrong = problems(self.world)
            self.world.run(self.world.close())
        finally:
            self.time.close()
        assert not wrong, "\n".join(wrong)
        assert not self.time.troubles, self.time.troubles

    def _ask(self, busy: Asked, *, once: bool = False, patience_s: float = 20.0) -> None:
        for name, args in busy:
            self.items += 1
            full = {**args, "item": str(self.items)} if name == "append" else args
            self._later(partial(self.world.command, name, full, once=once, patience_s=patience_s))

    def _pass(self, seconds: float) -> None:
        self.world.run(asyncio.sleep(seconds))

    def _pc(self, who: str) -> Pc | None:
        return self.world.leader if who == "leader" else self.world.running.get(who)

    def _later(self, what: Callable[[], Coroutine[Any, Any, Any]], seconds: float = 0.0) -> None:
        self._now(partial(self.world.later, seconds, what))

    def _now(self, what: Callable[[], None]) -> None:
        async def within() -> None:
            what()

        self.world.run(within())


TestAnyRun = AnyRun.TestCase
TestAnyRun.settings = cases(60, steps=20)
