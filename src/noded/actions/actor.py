"""Has one-shot actions done, each at most once: reads `actions/<node>`, writes `acted/<node>`.

What is to be done next is for `noded.actions.decide` to decide, from one linearizable read; an event only wakes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol, TypeVar

from noded.actions import decide as actions
from noded.actions.decide import (
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
"""How long after its command has succeeded the PC may take to go down."""
_FLUSH_TIMEOUT_S = 1.0
_STEPS_MAX = 32
_CUT_SHORT = "noded was asked to stop while it ran: it was cut short, and may have taken effect in part"


class HasClaim(Protocol):
    """Whether the node is ours: see `noded.registration.claim_revision`."""

    @property
    def claim_revision(self) -> int | None: ...


class ActionPerformer(Protocol):
    """See `noded.actions.performer`."""

    def has_reconciled(self, desired: bytes | None) -> bool: ...

    def hold_driver(self, action: Action) -> AbstractAsyncContextManager[None]: ...

    async def perform(self, action: Action) -> ActionOutcome | None: ...


@dataclass(frozen=True)
class _ReadKeys:
    """One read: the keys, and the mod_revisions to compare (0: absent)."""

    keys: ActionKeys
    desired: bytes | None
    alive: int
    epoch: int
    view: int
    acted: int


class Actor:
    """Does the actions of one node. To be woken when the claim is another one, and when the agent has come to rest."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        me: Writer,
        claim: HasClaim,
        performer: ActionPerformer,
        reboot_wait_s: float = REBOOT_WAIT_S,
    ) -> None:
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

    def wake(self) -> None:
        """Look soon."""
        self._wake.set()

    async def follow_view(self) -> None:
        """Look at each change of the view. Never ends."""
        async with aclosing(follow_key(self._etcd, self._view)) as values:
            async for _ in values:
                self.wake()

    async def perform_actions(self) -> NoReturn:
        """Do what is to be done, for ever. Outages are waited out."""
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
        """Write what came of the last action, within a second or not at all."""
        if self._memory.ended is None:
            return
        try:
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                for _ in range(_STEPS_MAX):
                    found = await self._read()
                    step = decide(found.keys, self._memory, self._me, time.time())
                    ours = found.alive == self._claim.claim_revision
                    if not ours or not isinstance(step, Write) or await self._put_acted(found, step.acted):
                        return
        except (NodectlError, TimeoutError) as error:
            log.warning("what came of the last action was not written: %s", error or "etcd did not answer in time")

    # --- one look ---

    async def _step_until_idle(self) -> bool:
        """Take steps until none is due; whether some still may be."""
        for _ in range(_STEPS_MAX):
            if not await self._step():
                return False
        return True

    async def _step(self) -> bool:
        """Whether to look again. NodectlError when etcd leaves something open."""
        found = await self._read()
        if self._claim.claim_revision is None or found.alive != self._claim.claim_revision:
            return False  # a new claim wakes us
        step = decide(found.keys, self._memory, self._me, time.time())
        if isinstance(step, Wait):
            self._log_problem(step.problem)
            return False
        self._log_once.reset()
        if isinstance(step, Write):
            await self._put_acted(found, step.acted)
            return True
        if isinstance(step, Begin) and not self._performer.has_reconciled(found.desired):
            return False  # coming to rest wakes us
        async with self._performer.hold_driver(step.action):
            # marked in here: waiting for one's turn may take long, and until it is marked it may expire
            if isinstance(step, Run) or await self._mark_started(found, step):
                await self._run_action(step.action, step.mark)
        if self._memory.running is not None:
            await self._wait_for_reboot()
        return True

    async def _mark_started(self, found: _ReadKeys, step: Begin) -> bool:
        """Whether it is surely marked. When that stays open, the next read tells."""
        self._memory = replace(self._memory, marked=step.action)
        return await self._put_acted(found, step.acted)

    async def _run_action(self, action: Action, mark: ActionResult) -> None:
        """Once for each mark: what has been begun is remembered before anything is done."""
        self._memory = replace(self._memory, begun=(action.epoch, action.index), running=mark, ended=None)
        try:
            outcome = await self._performer.perform(action)
        except asyncio.CancelledError:
            if action.name != actions.REBOOT:  # it is the reboot that ends us: the next noded sees what came of it
                self._record_outcome(ActionOutcome("failed", error=_CUT_SHORT))
            raise
        if outcome is not None:
            self._record_outcome(outcome)

    async def _wait_for_reboot(self) -> None:
        """Wait for the reboot to end this process."""
        await asyncio.sleep(self._reboot_wait_s)
        line = f"the reboot command succeeded, but the PC did not go down within {self._reboot_wait_s:g} s"
        log.error("%s", line)
        self._record_outcome(ActionOutcome("failed", error=line))

    def _record_outcome(self, outcome: ActionOutcome) -> None:
        assert self._memory.running is not None
        result = actions.ended(self._memory.running, outcome, time.time())
        self._memory = replace(self._memory, running=None, ended=result)

    # --- etcd ---

    async def _read(self) -> _ReadKeys:
        keys = (self._alive, self._epoch, self._view, self._acted, self._desired)
        result = await self._etcd.txn([], [op_get(key) for key in keys])
        alive, epoch, view, acted, desired = (result.range(at).first for at in range(len(keys)))
        incarnation = _decoded(Epoch, epoch)
        seen = ActionKeys(
            incarnation.epoch if isinstance(incarnation, Epoch) else incarnation,
            _decoded(Actions, view),
            _decoded(Acted, acted),
        )
        value = desired.value if desired is not None else None
        return _ReadKeys(seen, value, _revision(alive), _revision(epoch), _revision(view), _revision(acted))

    async def _put_acted(self, found: _ReadKeys, acted: Acted) -> bool:
        """Write it if all is as it was found. A second copy fails its compare, so it may be repeated; and False may
        mean that the first copy has landed."""
        compares = [
            cmp_mod(self._alive, found.alive),
            cmp_mod(self._epoch, found.epoch),
            cmp_mod(self._view, found.view),
            cmp_mod(self._acted, found.acted),
        ]
        result = await self._etcd.txn(compares, [op_put(self._acted, acted.encode())], repeatable=True)
        return result.succeeded

    # --- what it tells ---

    def _log_unless_outage(self, error: NodectlError) -> None:
        if not isinstance(error, Unavailable | OutcomeUnknown):  # an outage is no complaint
            self._log_problem(f"cannot do actions: {error}")

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
        return Garbled(f"begins no action: {error}", _is_newer(found.value))


def _is_newer(raw: bytes) -> bool:
    """Whether a newer program wrote it."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    version = value.get("v") if isinstance(value, dict) else None
    return isinstance(version, int) and version > SCHEMA_VERSION
