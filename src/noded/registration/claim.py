"""Who drives this node: the claim `alive/<node>`, which hangs on our lease.

The claim keeps two PCs from driving one node; it does not fence the work. So a lost lease (etcd blinked) stops nothing:
noded goes on with what it was last told, gets another lease and claims again. Only the sight of somebody else's nonce
stops it.
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
from nodestore.errors import Conflict, Garbage, LeaseLost, NodectlError
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import KV, Etcd, cmp_mod, op_put
from nodestore.schema.models import Alive, decode
from nodestore.support.backoff import Backoff
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)


class Superseded(Conflict):
    """Another noded has this node now: this one must end, and start anew if it is still wanted."""


@dataclass(frozen=True)
class NodedIdentity:
    """Who this noded is. `host_id`: the machine; `nonce`: this process."""

    node: str
    host_id: str
    nonce: str


class ClaimDecision(Enum):
    """What to do about the claim as it stands in etcd."""

    OURS = "it is ours, on our present lease"
    CLAIM = "put ours over what is there"
    WAIT = "another host has it"
    SUPERSEDED = "somebody else has put over ours"


def decide_claim(found: KV | None, me: NodedIdentity, lease: int, *, was_held: bool) -> ClaimDecision:
    """The rule. `was_held`: whether ours has ever been there. `lease`: the one we have now, 0 for none."""
    if found is None:
        return ClaimDecision.CLAIM
    try:
        alive = decode(Alive, found.value, found.key)
    except Garbage:  # nobody of ours wrote it
        return ClaimDecision.CLAIM
    if alive.nonce == me.nonce:
        return ClaimDecision.OURS if found.lease == lease else ClaimDecision.CLAIM
    if was_held:
        return ClaimDecision.SUPERSEDED
    abandoned = found.lease == 0  # without a lease it would never go
    return ClaimDecision.CLAIM if abandoned or alive.host_id == me.host_id else ClaimDecision.WAIT


class NodeClaim:
    """Keeps the claim. `changed` is called whenever `claim_revision` or `other_holder` has another value."""

    def __init__(self, etcd: Etcd, key: str, me: NodedIdentity, ttl_s: int, on_change: Callable[[], None]) -> None:
        self._etcd = etcd
        self._key = key
        self._me = me
        self._ttl_s = ttl_s
        self._on_change = on_change
        self._lease: Lease | None = None
        self._since = time.time()
        self._log_once = RateLimitedLog(log, math.inf)
        self.was_held = False
        """Whether the node has been ours since this noded started."""
        self.claim_revision: int | None = None
        """mod_revision of our claim; None while we have none, or do not know."""
        self.other_holder: str | None = None
        """The other host that has the node, until it goes."""

    async def maintain_claim(self) -> NoReturn:
        """Claim the node and keep it. Raises Superseded, and nothing else: outages and refusals are waited out."""
        while True:
            self._lease = await self._grant_lease()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._lease.keep_alive())
                    tasks.create_task(self._watch(self._lease))
            except* LeaseLost as lost:
                why = lost.exceptions[0]
                log.warning("lease lost (%s): goes on with what it was told, and claims the node again", why)
            self._set_claim(None, self.other_holder)

    async def release_claim(self) -> None:
        """Give the node up now instead of after the lease's TTL. Best effort, bounded."""
        if self._lease is not None:
            await self._lease.revoke()

    async def _grant_lease(self) -> Lease:
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            try:
                # looked at first: under etcd's NOSPACE alarm reads work though no lease is granted
                await self._read_decision(0)
                return await Lease.grant(self._etcd, self._ttl_s)
            except Superseded:
                raise
            except NodectlError as error:
                self._log_once.log(logging.WARNING, f"cannot claim node {self._me.node}: {error}")
            await asyncio.sleep(backoff.next_s())

    async def _watch(self, lease: Lease) -> None:
        """Each change of the key only wakes: what counts is what a linearizable read then finds."""
        async with aclosing(follow_key(self._etcd, self._key)) as changes:
            async for _ in changes:
                await self._settle_claim(lease)

    async def _settle_claim(self, lease: Lease) -> None:
        """Until etcd has answered, and the claim is ours or another host's."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            try:
                if await self._try_claim(lease):
                    return
            except (Superseded, LeaseLost):
                raise
            except NodectlError as error:
                self._log_once.log(logging.WARNING, f"cannot claim node {self._me.node}: {error}")
            await asyncio.sleep(backoff.next_s())

    async def _try_claim(self, lease: Lease) -> bool:
        """Whether all is settled: nothing was to be claimed, or the claim is ours now."""
        found = await self._read_decision(lease.id)
        if found is None:
            return True
        mine = Alive(
            host_id=self._me.host_id,
            nonce=self._me.nonce,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=self._since,
        )
        # a second copy of this transaction fails its compare, so it may be repeated; the look tells what came of it
        put = op_put(self._key, mine.encode(), lease=lease.id)
        await self._etcd.txn([cmp_mod(self._key, found)], [put], repeatable=True)
        return await self._read_decision(lease.id) is None

    async def _read_decision(self, lease: int) -> int | None:
        """Read and judge. The mod_revision to put over when the claim is to be put (0: absent), else None."""
        found = await self._etcd.get(self._key)
        verdict = decide_claim(found, self._me, lease, was_held=self.was_held)
        if verdict is ClaimDecision.SUPERSEDED:
            raise Superseded(f"another noded has taken over node {self._me.node}: {_describe_holder(found)}")
        if verdict is ClaimDecision.WAIT:
            self._log_once.log(
                logging.WARNING, f"waits and drives nothing: {_describe_holder(found)} has node {self._me.node}"
            )
            self._set_claim(None, _describe_holder(found))
            return None
        if verdict is ClaimDecision.CLAIM:
            self._set_claim(None, None)
            return found.mod_revision if found is not None else 0
        assert found is not None
        self.was_held = True
        self._log_once.log(logging.INFO, f"node {self._me.node} is ours")
        self._set_claim(found.mod_revision, None)
        return None

    def _set_claim(self, claim: int | None, waits_for: str | None) -> None:
        if (claim, waits_for) != (self.claim_revision, self.other_holder):
            self.claim_revision, self.other_holder = claim, waits_for
            self._on_change()


def _describe_holder(found: KV | None) -> str:
    if found is None:
        return "nobody"
    try:
        alive = decode(Alive, found.value, found.key)
    except Garbage:
        return "somebody"
    return f"{alive.host} (host id {alive.host_id}, pid {alive.pid})"
