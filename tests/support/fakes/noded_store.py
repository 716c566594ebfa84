"""Fakes for tests of noded's actions: an in-memory store with injected faults, and a performer of actions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from noded.actions.actor import Actor
from noded.actions.decide import ActionOutcome, Writer
from nodestore.errors import Garbage, OutcomeUnknown, Unavailable
from nodestore.etcd.session import KV, Compare, Etcd, Op, Range, TxnResult
from nodestore.etcd.types import WriteResult
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, Action, ActionResult, Actions, Alive, Epoch, Stored, decode

KEYS = Keys("test")
NODE = "n1"
ALIVE, ACTIONS, ACTED = KEYS.alive_of(NODE), KEYS.actions_of(NODE), KEYS.acted_of(NODE)

Fault = Callable[[], object] | str | None


class Store:
    """A fake of the etcd calls that `Actor` makes.

    faults: one for each of the next write transactions. "lost": it lands, and its answer is lost. "late": it lands when
    `land()` is called. "refused": it is not sent. A function: called just before the transaction, to act as another
    program. None: no fault.
    """

    def __init__(self) -> None:
        self.kvs: dict[str, KV] = {}
        self.revision = 10
        self.faults: list[Fault] = []
        self.writes = 0
        self.reads = 0
        self.away = False
        self._under_way: list[tuple[Sequence[Compare], Sequence[Op]]] = []

    def put(self, key: str, value: bytes | Stored) -> int:
        self.revision += 1
        raw = value if isinstance(value, bytes) else value.encode()
        self.kvs[key] = KV(key, raw, self.revision, self.revision, 1, 0)
        return self.revision

    def delete(self, key: str) -> None:
        self.revision += 1
        self.kvs.pop(key, None)

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op] = (), *, repeatable: bool = False) -> TxnResult:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("etcd cannot be reached")
        if not compares:
            self.reads += 1
            return self._apply(compares, then)
        assert repeatable
        self.writes += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault == "refused":
            raise Unavailable("not sent")
        if fault == "late":
            self._under_way.append((compares, then))
            raise OutcomeUnknown("no answer")
        if callable(fault):
            fault()
        result = self._apply(compares, then)
        await asyncio.sleep(0)
        if fault == "lost":
            raise OutcomeUnknown("no answer")
        return result

    def land(self) -> list[bool]:
        """Let the late transactions arrive. Returns whether each one succeeded."""
        landed = [self._apply(compares, then).succeeded for compares, then in self._under_way]
        self._under_way.clear()
        return landed

    def _apply(self, compares: Sequence[Compare], then: Sequence[Op]) -> TxnResult:
        if any(self._mod(item.key.decode()) != item.mod_revision for item in compares):
            return TxnResult(False, self.revision, ())
        return TxnResult(True, self.revision, tuple(self._do(op) for op in then))

    def _do(self, op: Op) -> Range | WriteResult:
        if op.HasField("request_put"):
            self.put(op.request_put.key.decode(), op.request_put.value)
            return WriteResult(1)
        found = self.kvs.get(op.request_range.key.decode())
        kvs = () if found is None else (found,)
        return Range(self.revision, kvs, False, len(kvs))

    def _mod(self, key: str) -> int:
        return self.kvs[key].mod_revision if key in self.kvs else 0

    # --- what the leader does ---

    def ask(self, *asked: Action, epoch: int = 1) -> None:
        """Request these actions: write `actions/<node>`, or delete it if there are none."""
        if asked:
            self.put(ACTIONS, Actions(epoch=epoch, term=5, pending=asked))
        else:
            self.delete(ACTIONS)

    @property
    def pending(self) -> tuple[Action, ...]:
        found = self.kvs.get(ACTIONS)
        return decode(Actions, found.value, "").pending if found is not None else ()

    def close(self, index: int) -> None:
        self.ask(*(action for action in self.pending if action.index != index))

    @property
    def acted(self) -> Acted:
        """The value of `acted/<node>`; an empty one if it is absent or not readable."""
        try:
            return decode(Acted, self.kvs[ACTED].value, ACTED)
        except (KeyError, Garbage):
            return Acted(node=NODE, epoch=1)

    def result(self, index: int) -> ActionResult | None:
        return next((item for item in self.acted.results if item.index == index), None)

    def state(self, index: int) -> str:
        found = self.result(index)
        return found.state if found is not None else "absent"


def action(index: int, name: str = "blink", epoch: int = 1, **args: Any) -> Action:
    return Action(index=index, name=name, args=args, epoch=epoch, actor="alice")


class Doer:
    """A fake `Performer` that records the actions. hold: an event that an action waits for. outcome: the result."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.hold: asyncio.Event | None = None
        self.outcome: ActionOutcome | None = ActionOutcome("done", {"n": 1})
        self.busy = False
        self.at_rest = True
        self.seen_desired: bytes | None = None

    def has_reconciled(self, desired: bytes | None) -> bool:
        self.seen_desired = desired
        return self.at_rest

    @asynccontextmanager
    async def hold_driver(self, action: Action) -> AsyncIterator[None]:
        assert not self.busy
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    async def perform(self, action: Action) -> ActionOutcome | None:
        assert self.busy
        self.done.append(action.index)
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        return self.outcome


class Noded:
    """The part of a noded process that performs actions: its claim, its actor, and the task that runs it."""

    def __init__(
        self, store: Store, nonce: str, doer: Doer, *, host: str = "host", boot: str = "b1", reboot_wait_s: float = 60.0
    ) -> None:
        self.store = store
        self.doer = doer
        self.nonce = nonce
        self._host = host
        self.claim_revision: int | None = None
        self.take()
        writer = Writer(NODE, nonce, boot, lambda was: was != boot)
        self.actor = Actor(cast(Etcd, store), KEYS, writer, self, doer, reboot_wait_s)
        self.task = asyncio.get_running_loop().create_task(self.actor.perform_actions())
        self.actor.wake()

    def take(self) -> None:
        """Write our claim, over any other one."""
        self.claim_revision = self.store.put(ALIVE, Alive(host_id=self._host, nonce=self.nonce, host="pc"))

    async def kill(self) -> None:
        """End it as by SIGKILL: it does nothing more, and its memory is lost."""
        self.task.cancel()
        await asyncio.wait({self.task})

    async def stop(self) -> None:
        """End it as by SIGTERM."""
        await self.kill()
        await self.actor.flush()


def store() -> Store:
    """Return a store that has an epoch, because a masterd has led."""
    made = Store()
    made.put(KEYS.epoch, Epoch(epoch=1))
    return made
