"""Starts each pending one-shot action of `actions/<node>` at most once and writes its result into `acted/<node>`.

`noded.actions.decide` decides the next step from one linearizable read; an event only wakes the loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol, TypeVar

from noded.actions.decide import (
    REBOOT,
    ActionKeys,
    ActionMemory,
    ActionOutcome,
    Begin,
    Garbled,
    Run,
    Wait,
    Write,
    Writer,
    decide,
    ended,
)
from noded.registration.follow_key import RETRY_FIRST_S, RETRY_MAX_S, follow_key
from nodestore.errors import Garbage, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import KV, Etcd, cmp_mod, op_get, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import SCHEMA_VERSION, Acted, Action, ActionResult, Actions, Epoch, Stored, decode
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Stored)

REBOOT_WAIT_S = 300.0
"""Seconds that the PC may take to go down after the reboot command succeeded."""
_FLUSH_TIMEOUT_S = 1.0
_STEPS_MAX = 32
_CUT_SHORT = "it was cancelled because noded was asked to stop, and may have taken effect in part"


class HasClaim(Protocol):
    """The claim on the node: see `noded.registration.claim.NodeClaim`."""

    @property
    def claim_revision(self) -> int | None: ...


class ActionPerformer(Protocol):
    """Performs an action: see `noded.actions.performer.Performer`."""

    def has_reconciled(self, desired: bytes | None) -> bool: ...

    def hold_driver(self, action: Action) -> AbstractAsyncContextManager[None]: ...

    async def perform(self, action: Action) -> ActionOutcome | None: ...


@dataclass(frozen=True)
class _ReadKeys:
    """The result of one read: the keys, and the mod_revisions to compare (0: absent)."""

    keys: ActionKeys
    desired: bytes | None
    alive: int
    epoch: int
    view: int
    acted: int


class Actor:
    """Starts the actions of one node. Call `wake` when the claim changes."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        me: Writer,
        claim: HasClaim,
        performer: ActionPerformer,
        reboot_wait_s: float = REBOOT_WAIT_S,
        is_blocked: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_blocked: whether no action may start now, because etcd is another store than the one that is known."""
        self._is_blocked = is_blocked
        self._etcd = etcd
        self._me = me
        self._claim = claim
        self._performer = performer
        self._reboot_wait_s = reboot_wait_s
        self._alive, self._epoch = keys.alive_of(me.node), keys.epoch
        self._view, self._acted = keys.actions_of(me.node), keys.acted_of(me.node)
        self._desired = keys.desired_of(me.node)
        self._memory = ActionMemory()
        self._log_once = RateLimitedLog(log, math.inf)
        self._wake = asyncio.Event()
        self._nothing_due = False
        """Whether the last step found no action that can start before `actions/<node>` or the claim changes."""

    def wake(self) -> None:
        """Make the loop read the keys soon."""
        self._wake.set()

    def on_reconciled(self) -> None:
        """To be called when the agent has reconciled. Makes the loop read the keys soon if an action may wait for that.

        A step that is still reading counts as one that waits: it may have read an older desired state.
        """
        if not self._nothing_due:
            self.wake()

    async def follow_view(self) -> None:
        """Wake the loop at each change of `actions/<node>`. Never returns."""
        async with aclosing(follow_key(self._etcd, self._view)) as values:
            async for _ in values:
                self.wake()

    async def perform_actions(self) -> NoReturn:
        """Execute each step that is due, and retry after errors. Never returns."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if not await self._step_until_idle():
                    backoff.reset()
                    continue
            except NodectlError as error:
                self._log_unless_outage(error)
            self._wake.set()
            await asyncio.sleep(backoff.next_s())

    async def flush(self) -> None:
        """Write the result of the last action. Give up after a second."""
        if self._memory.ended is None:
            return
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                for _ in range(_STEPS_MAX):
                    read = await self._read()
                    step = decide(read.keys, self._memory, self._me, time.time())
                    ours = read.alive == self._claim.claim_revision
                    if not ours or not isinstance(step, Write) or await self._put_acted(read, step.acted):
                        return
        except (NodectlError, TimeoutError) as error:
            log.warning("the result of the last action was not written: %s", error or "etcd did not answer in time")

    # --- steps ---

    async def _step_until_idle(self) -> bool:
        """Execute up to _STEPS_MAX steps until none is due. Returns whether another may be due."""
        for _ in range(_STEPS_MAX):
            if not await self._step():
                return False
        return True

    async def _step(self) -> bool:
        """Execute the next step. Returns whether another may be due. Raises NodectlError if a call of etcd fails."""
        self._nothing_due = False
        read = await self._read()
        if self._claim.claim_revision is None or read.alive != self._claim.claim_revision:
            return False  # a new claim calls wake
        step = decide(read.keys, self._memory, self._me, time.time())
        if isinstance(step, Wait):
            self._log_problem(step.problem)
            self._nothing_due = step.problem is None
            return False
        self._log_once.reset()
        if isinstance(step, Write):
            await self._put_acted(read, step.acted)
            return True
        if isinstance(step, Begin) and (self._is_blocked() or not self._performer.has_reconciled(read.desired)):
            return False  # the agent calls `on_reconciled`
        async with self._performer.hold_driver(step.action):
            # record the start within the lock: waiting for the lock may take long, and the action may expire meanwhile
            if isinstance(step, Run) or await self._write_start(read, step):
                await self._run_action(step.action, step.start)
        if self._memory.running is not None:
            await self._wait_for_reboot()
        return True

    async def _write_start(self, read: _ReadKeys, step: Begin) -> bool:
        """Write the start record. Returns whether it is known to be written. After False, the next read shows it."""
        self._memory = replace(self._memory, sent=step.action)
        return await self._put_acted(read, step.acted)

    async def _run_action(self, action: Action, start: ActionResult) -> None:
        """Run the action and record its outcome in the memory."""
        # recorded first, so that the action is not run again for this start record, whatever happens below
        self._memory = replace(self._memory, begun=(action.epoch, action.index), running=start, ended=None)
        try:
            outcome = await self._performer.perform(action)
        except asyncio.CancelledError:
            if action.name != REBOOT:  # the reboot ends this process, and the next noded finds its outcome
                self._record_outcome(ActionOutcome("failed", error=_CUT_SHORT))
            raise
        if outcome is not None:
            self._record_outcome(outcome)

    async def _wait_for_reboot(self) -> None:
        """Wait for the reboot to end this process; record a failure if it does not."""
        await asyncio.sleep(self._reboot_wait_s)
        line = f"the reboot command succeeded, but the PC did not go down within {self._reboot_wait_s:g} s"
        log.error("%s", line)
        self._record_outcome(ActionOutcome("failed", error=line))

    def _record_outcome(self, outcome: ActionOutcome) -> None:
        assert self._memory.running is not None
        result = ended(self._memory.running, outcome, time.time())
        self._memory = replace(self._memory, running=None, ended=result)

    # --- etcd ---

    async def _read(self) -> _ReadKeys:
        keys = (self._alive, self._epoch, self._view, self._acted, self._desired)
        result = await self._etcd.txn([], [op_get(key) for key in keys])
        alive, epoch, view, acted, desired = (result.range(at).first for at in range(len(keys)))
        incarnation = _decoded(Epoch, epoch)
        decoded = ActionKeys(
            incarnation.epoch if isinstance(incarnation, Epoch) else incarnation,
            _decoded(Actions, view),
            _decoded(Acted, acted),
        )
        value = desired.value if desired is not None else None
        return _ReadKeys(decoded, value, _revision(alive), _revision(epoch), _revision(view), _revision(acted))

    async def _put_acted(self, read: _ReadKeys, acted: Acted) -> bool:
        """Write `acted` if the keys are as in `read`. Returns whether it is known to be written.

        The transaction may be sent more than once. That is harmless, because only one copy can pass the compares. The
        answer may be that of a copy that failed, so False does not mean that `acted` is unchanged.
        """
        compares = [
            cmp_mod(self._alive, read.alive),
            cmp_mod(self._epoch, read.epoch),
            cmp_mod(self._view, read.view),
            cmp_mod(self._acted, read.acted),
        ]
        result = await self._etcd.txn(compares, [op_put(self._acted, acted.encode())], repeatable=True)
        return result.succeeded

    # --- log ---

    def _log_unless_outage(self, error: NodectlError) -> None:
        if not isinstance(error, Unavailable | OutcomeUnknown):  # an outage ends by itself: not logged
            self._log_problem(f"cannot perform actions, tries again: {error}")

    def _log_problem(self, line: str | None) -> None:
        if line is None:
            self._log_once.reset()
        else:
            self._log_once.log(logging.ERROR, line)


def _revision(found: KV | None) -> int:
    return 0 if found is None else found.mod_revision


def _decoded(model: type[S], found: KV | None) -> S | Garbled | None:
    if found is None:
        return None
    try:
        return decode(model, found.value, found.key)
    except Garbage as error:
        return Garbled(f"starts no action: {error}", _is_newer(found.value))


def _is_newer(raw: bytes) -> bool:
    """Whether a newer program wrote the value."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    version = value.get("v") if isinstance(value, dict) else None
    return isinstance(version, int) and version > SCHEMA_VERSION
