"""Holds the claim `alive/<node>`, attached to noded's lease: only the noded with the claim drives the node.

The claim keeps two PCs from driving one node, but noded need not hold it all the time. If the lease is lost, for
example because etcd was unreachable, noded continues with its present desired state, grants another lease and claims
the node again. noded stops only if another noded has replaced its claim: then the claim has another nonce.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from noded.registration.follow_key import RETRY_FIRST_S, RETRY_MAX_S, follow_key
from noded.registration.waiting_notice import WaitingNotice
from nodestore.errors import Conflict, Garbage, LeaseLost, NodectlError
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import KV, Etcd, cmp_mod, op_put
from nodestore.schema.models import Alive, decode, decode_or_none
from nodestore.support.backoff import Backoff, grown_s
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

REPLACED_MANY = 3
"""From this number of replaced claims in a row on, noded reports it, and waits before it replaces the next one."""
_JUST_STARTED_S = 600.0
_REPLACE_PAUSE_FIRST_S, _REPLACE_PAUSE_MAX_S = 2.0, 60.0
_MAY_ACT_TIMEOUT_S = 0.5
_NOTICE_EVERY_S = 15.0


class Superseded(Conflict):
    """Another noded has claimed this node, so this process must end. The service manager may start it again."""


@dataclass(frozen=True)
class NodedIdentity:
    """Identity of this noded: `host_id` identifies the machine, `boot` its present boot, `nonce` this process."""

    node: str
    host_id: str
    nonce: str
    boot: str = ""


class ClaimDecision(Enum):
    """What to do about the claim found in etcd."""

    OURS = "the claim is ours and attached to our present lease"
    CLAIM = "write our claim, over the one in etcd if there is one"
    WAIT = "another host holds the claim"
    SUPERSEDED = "another noded has replaced our claim"


def decide_claim(current: KV | None, me: NodedIdentity, lease: int, *, was_held: bool) -> ClaimDecision:
    """Decide about the claim `current`. was_held: whether we ever held it. lease: our present lease, 0 for none."""
    if current is None:
        return ClaimDecision.CLAIM
    try:
        alive = decode(Alive, current.value, current.key)
    except Garbage:  # no noded wrote it
        return ClaimDecision.CLAIM
    if alive.nonce == me.nonce:
        return ClaimDecision.OURS if current.lease == lease else ClaimDecision.CLAIM
    if was_held:
        return ClaimDecision.SUPERSEDED
    if current.lease == 0:  # without a lease it would never expire
        return ClaimDecision.CLAIM
    return ClaimDecision.WAIT if _is_of_another_machine(alive, me) else ClaimDecision.CLAIM


def _is_of_another_machine(alive: Alive, me: NodedIdentity) -> bool:
    """Whether the claim is another machine's. Two PCs that were cloned from one image differ in their boot alone.

    After a reboot, a machine takes its own earlier claim for that of another one, and waits until that has expired.
    """
    return alive.host_id != me.host_id or ("" not in (alive.boot, me.boot) and alive.boot != me.boot)


def pause_before_replacing_s(replaced: int) -> float:
    """Return how long to wait before a claim that is still held is replaced: two nodeds may replace each other.

    replaced: see `Alive.replaced`. The service manager starts each anew when the other one has replaced it.
    """
    if replaced < REPLACED_MANY:
        return 0.0
    return grown_s(_REPLACE_PAUSE_FIRST_S, _REPLACE_PAUSE_MAX_S, replaced - REPLACED_MANY)


class NodeClaim:
    """Claims the node and keeps the claim. Calls `on_change` when `claim_revision` or `other_holder` changes.

    notice: shows in etcd that this noded waits for another host's claim; None: it is not shown.
    """

    def __init__(
        self,
        etcd: Etcd,
        key: str,
        me: NodedIdentity,
        ttl_s: int,
        on_change: Callable[[], None],
        notice: WaitingNotice | None = None,
    ) -> None:
        self._etcd = etcd
        self._key = key
        self._me = me
        self._ttl_s = ttl_s
        self._on_change = on_change
        self._notice = notice
        self._waits_for: KV | None = None
        """The claim of another host that this noded waits for; None if it does not wait."""
        self._lease: Lease | None = None
        self._since = time.time()
        self._replaced = 0
        self._has_paused = False
        self._log_once = RateLimitedLog(log, math.inf)
        self.was_held = False
        """Whether this process has ever held the claim."""
        self.claim_revision: int | None = None
        """mod_revision of our claim; None while we hold none or do not know."""
        self.other_holder: str | None = None
        """Description of the other host that holds the claim, for log and status; None if there is none."""

    async def maintain_claim(self) -> NoReturn:
        """Claim the node and keep the claim; retry after errors.

        Only Superseded is raised, bare or in an exception group.
        """
        while True:
            self._lease = await self._grant_lease()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._lease.keep_alive())
                    tasks.create_task(self._watch(self._lease))
                    tasks.create_task(self._repeat_notice(self._lease))
            except* LeaseLost as lost:
                why = lost.exceptions[0]
                log.warning("lease lost (%s): continues with the present desired state and claims the node again", why)
            self._set_claim(None, self.other_holder)

    @property
    def warning(self) -> str | None:
        """That nodeds replace one another all the time, for the status; None if they do not."""
        if self._replaced < REPLACED_MANY:
            return None
        return (
            f"{self._replaced} nodeds in a row took this node's claim from one that had just started: "
            f"start only one noded as {self._me.node}, and give each PC its own --host-id"
        )

    async def may_act(self) -> bool:
        """Whether no other noded has replaced our claim, as far as etcd tells within half a second.

        Read only if the lease may have expired: this process may have been frozen, and another one may drive the node.
        Without an answer noded goes on, because an outage of etcd must not stop the node.
        """
        lease = self._lease
        if not self.was_held or lease is None or lease.left_s > 0:
            return True
        try:
            async with asyncio.timeout(_MAY_ACT_TIMEOUT_S):
                current = await self._etcd.get(self._key)
        except (NodectlError, TimeoutError):
            return True
        return decide_claim(current, self._me, lease.id, was_held=True) is not ClaimDecision.SUPERSEDED

    async def release_claim(self) -> None:
        """Revoke the lease, so that the claim ends before its TTL. Best effort, in bounded time."""
        if self._lease is not None:
            await self._lease.revoke()

    async def _grant_lease(self) -> Lease:
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            try:
                # Read before the grant: under etcd's NOSPACE alarm no lease is granted, but reads work. So a noded that
                # gets no lease still finds out whether another host holds the claim.
                await self._read_decision(0)
                return await Lease.grant(self._etcd, self._ttl_s)
            except Superseded:
                raise
            except NodectlError as error:
                self._log_once.log(logging.WARNING, f"cannot claim node {self._me.node}: {error}")
            await asyncio.sleep(backoff.next_s())

    async def _watch(self, lease: Lease) -> None:
        """Claim the node again, if necessary, at each change of the key. The value is read again, linearizably."""
        async with aclosing(follow_key(self._etcd, self._key)) as changes:
            async for _ in changes:
                await self._claim_unless_held(lease)

    async def _claim_unless_held(self, lease: Lease) -> None:
        """Try to claim the node, with retries, until the claim is ours or another host holds it."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            try:
                if await self._try_claim(lease):
                    await self._show_waiting(lease)
                    return
            except (Superseded, LeaseLost):
                raise
            except NodectlError as error:
                self._log_once.log(logging.WARNING, f"cannot claim node {self._me.node}: {error}")
            await asyncio.sleep(backoff.next_s())

    async def _show_waiting(self, lease: Lease) -> None:
        if self._notice is not None and self._waits_for is not None:
            await self._notice.show(self._waits_for, lease.id)

    async def _repeat_notice(self, lease: Lease) -> NoReturn:
        """Show that this noded waits every 15 s, in case another program deleted the key."""
        while True:
            await asyncio.sleep(_NOTICE_EVERY_S)
            try:
                await self._show_waiting(lease)
            except NodectlError as error:
                log.debug("cannot show that this noded waits: %s", error)

    async def _try_claim(self, lease: Lease) -> bool:
        """Claim the node unless another host holds it. Returns False if another attempt is necessary."""
        await self._pause_if_flapping()
        revision = await self._read_decision(lease.id)
        if revision is None:
            return True
        mine = Alive(
            boot=self._me.boot,
            replaced=self._replaced,
            host_id=self._me.host_id,
            nonce=self._me.nonce,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=self._since,
        )
        # repeatable: a second copy fails its compare, and the read below shows whether one of them succeeded
        put = op_put(self._key, mine.encode(), lease=lease.id)
        ended = self._notice.end() if self._notice is not None else []
        await self._etcd.txn([cmp_mod(self._key, revision)], [put, *ended], repeatable=True)
        return await self._read_decision(lease.id) is None

    async def _pause_if_flapping(self) -> None:
        """Count the claim that we are about to replace; wait if the last ones were replaced soon after their start."""
        if self.was_held:
            return
        current = await self._etcd.get(self._key)
        held = decode_or_none(Alive, current)
        replaces = decide_claim(current, self._me, 0, was_held=False) is ClaimDecision.CLAIM
        if held is None or held.nonce == self._me.nonce or not replaces:
            self._replaced = 0
            return
        self._replaced = held.replaced + 1 if abs(time.time() - held.since) < _JUST_STARTED_S else 0
        pause_s = pause_before_replacing_s(held.replaced)
        if pause_s and not self._has_paused:
            self._has_paused = True
            line = f"waits {pause_s:g} s before it replaces the claim of pid {held.pid} on {held.host}"
            log.warning("%s: %d nodeds in a row did so", line, held.replaced)
            self._set_claim(None, f"{held.host} (pid {held.pid})")
            await asyncio.sleep(pause_s)

    async def _read_decision(self, lease: int) -> int | None:
        """Read the claim and decide. Returns the mod_revision to replace (0: absent) if we are to claim, else None."""
        current = await self._etcd.get(self._key)
        decision = decide_claim(current, self._me, lease, was_held=self.was_held)
        self._waits_for = current if decision is ClaimDecision.WAIT else None
        if decision is ClaimDecision.SUPERSEDED:
            raise Superseded(f"another noded has taken over node {self._me.node}: {_describe_holder(current)}")
        if decision is ClaimDecision.WAIT:
            holder = _describe_holder(current)
            line = f"waits and drives nothing: {holder} holds the claim on node {self._me.node}"
            alive = decode_or_none(Alive, current)
            same_id = alive is not None and alive.host_id == self._me.host_id
            hint = " (it has the same host id: unless it is this PC before its reboot, give each PC its own --host-id)"
            self._log_once.log(logging.WARNING, f"{line}{hint if same_id else ''}; to use this noded, stop that one")
            self._set_claim(None, holder)
            return None
        if decision is ClaimDecision.CLAIM:
            self._set_claim(None, None)
            return current.mod_revision if current is not None else 0
        assert current is not None
        self.was_held = True
        self._log_once.log(logging.INFO, f"holds the claim on node {self._me.node}")
        self._set_claim(current.mod_revision, None)
        return None

    def _set_claim(self, revision: int | None, other_holder: str | None) -> None:
        if (revision, other_holder) != (self.claim_revision, self.other_holder):
            self.claim_revision, self.other_holder = revision, other_holder
            self._on_change()


def _describe_holder(claim: KV | None) -> str:
    if claim is None:
        return "no noded"
    try:
        alive = decode(Alive, claim.value, claim.key)
    except Garbage:
        return "an unknown process"
    return f"{alive.host} (host id {alive.host_id}, pid {alive.pid})"
