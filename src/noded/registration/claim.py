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
class Me:
    """Who this noded is. `host_id`: the machine; `nonce`: this process."""

    node: str
    host_id: str
    nonce: str


class Verdict(Enum):
    """What to do about the claim as it stands in etcd."""

    OURS = "it is ours, on our present lease"
    CLAIM = "put ours over what is there"
    WAIT = "another host has it"
    SUPERSEDED = "somebody else has put over ours"


def judge(found: KV | None, me: Me, lease: int, *, held: bool) -> Verdict:
    """The rule. `held`: whether ours has ever been there. `lease`: the one we have now, 0 for none."""
    if found is None:
        return Verdict.CLAIM
    try:
        alive = decode(Alive, found.value, found.key)
    except Garbage:  # nobody of ours wrote it
        return Verdict.CLAIM
    if alive.nonce == me.nonce:
        return Verdict.OURS if found.lease == lease else Verdict.CLAIM
    if held:
        return Verdict.SUPERSEDED
    abandoned = found.lease == 0  # without a lease it would never go
    return Verdict.CLAIM if abandoned or alive.host_id == me.host_id else Verdict.WAIT


class Presence:
    """Keeps the claim. `changed` is called whenever `claim` or `waits_for` has another value."""

    def __init__(self, etcd: Etcd, key: str, me: Me, ttl_s: int, changed: Callable[[], None]) -> None:
        self._etcd = etcd
        self._key = key
        self._me = me
        self._ttl_s = ttl_s
        self._changed = changed
        self._lease: Lease | None = None
        self._since = time.time()
        self._log_once = RateLimitedLog(log, math.inf)
        self.held = False
        """Whether the node has been ours since this noded started."""
        self.claim: int | None = None
        """mod_revision of our claim; None while we have none, or do not know."""
        self.waits_for: str | None = None
        """The other host that has the node, until it goes."""

    async def keep(self) -> NoReturn:
        """Claim the node and keep it. Raises Superseded, and nothing else: outages and refusals are waited out."""
        while True:
            self._lease = await self._granted()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._lease.keep())
                    tasks.create_task(self._watch(self._lease))
            except* LeaseLost as lost:
                why = lost.exceptions[0]
                log.warning("lease lost (%s): goes on with what it was told, and claims the node again", why)
            self._set(None, self.waits_for)

    async def leave(self) -> None:
        """Give the node up now instead of after the lease's TTL. Best effort, bounded."""
        if self._lease is not None:
            await self._lease.revoke()

    async def _granted(self) -> Lease:
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            try:
                # looked at first: under etcd's NOSPACE alarm reads work though no lease is granted
                await self._look(0)
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
                await self._settle(lease)

    async def _settle(self, lease: Lease) -> None:
        """Until etcd has answered, and the claim is ours or another host's."""
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            try:
                if await self._put_over(lease):
                    return
            except (Superseded, LeaseLost):
                raise
            except NodectlError as error:
                self._log_once.log(logging.WARNING, f"cannot claim node {self._me.node}: {error}")
            await asyncio.sleep(backoff.next_s())

    async def _put_over(self, lease: Lease) -> bool:
        """Whether all is settled: nothing was to be claimed, or the claim is ours now."""
        found = await self._look(lease.id)
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
        return await self._look(lease.id) is None

    async def _look(self, lease: int) -> int | None:
        """Read and judge. The mod_revision to put over when the claim is to be put (0: absent), else None."""
        found = await self._etcd.get(self._key)
        verdict = judge(found, self._me, lease, held=self.held)
        if verdict is Verdict.SUPERSEDED:
            raise Superseded(f"another noded has taken over node {self._me.node}: {_who(found)}")
        if verdict is Verdict.WAIT:
            self._log_once.log(logging.WARNING, f"waits and drives nothing: {_who(found)} has node {self._me.node}")
            self._set(None, _who(found))
            return None
        if verdict is Verdict.CLAIM:
            self._set(None, None)
            return found.mod_revision if found is not None else 0
        assert found is not None
        self.held = True
        self._log_once.log(logging.INFO, f"node {self._me.node} is ours")
        self._set(found.mod_revision, None)
        return None

    def _set(self, claim: int | None, waits_for: str | None) -> None:
        if (claim, waits_for) != (self.claim, self.waits_for):
            self.claim, self.waits_for = claim, waits_for
            self._changed()


def _who(found: KV | None) -> str:
    if found is None:
        return "nobody"
    try:
        alive = decode(Alive, found.value, found.key)
    except Garbage:
        return "somebody"
    return f"{alive.host} (host id {alive.host_id}, pid {alive.pid})"
