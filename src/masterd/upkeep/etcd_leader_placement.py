"""Keeps the leader and etcd's leader on different PCs: when one PC dies, only one of them has to be replaced.

`MoveLeader` is not fenced and needs root's rights in etcd. So it is asked for by the leader alone, after it has
confirmed its term, and at most once in ten seconds: two masters that both believe they lead cannot play ball with it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

from masterd.upkeep.local_member import LocalMember
from nodestore.errors import Invalid, NodectlError
from nodestore.etcd.session import Etcd, Member, MemberStatus
from nodestore.etcd.types import host_port
from nodestore.support.logs import RateLimitedLog
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 2.0
_MOVE_AGAIN_S = 10.0
_SETTLE_S = 2.0
_STATUS_S = 1.0
_FIND_AGAIN_S = 60.0


class EtcdLeaderPlacement:
    """Of one masterd. `find`: which etcd member is on this PC; None: there is none. `leads`: while this masterd leads,
    what returns once that is confirmed, and raises when it is not so any more; else None.

    beside: whether that member leads etcd: such a PC should not get the leader. problem: why both are on this PC. Both
    are of a member that answers: one that does not is about to lose what it leads.
    """

    def __init__(
        self,
        maintenance: Etcd,
        find: Callable[[], Awaitable[LocalMember]] | None,
        leadership_check: Callable[[], Callable[[], Awaitable[None]] | None],
        changed: Callable[[], None],
    ) -> None:
        self._etcd, self._find, self._leadership_check, self._changed = maintenance, find, leadership_check, changed
        self.hosts_etcd_leader = False
        self.problem: str | None = None
        self._moved_at = self._not_before = -math.inf
        self._wake = asyncio.Event()
        self._limited_log, self._log_once = RateLimitedLog(log, 60.0), RateLimitedLog(log, math.inf)

    def notify_leading(self) -> None:
        """Etcd's leadership is moved in a few seconds: right after a failure its members may not be all there yet."""
        self._not_before = time.monotonic() + _SETTLE_S
        self._wake.set()

    async def run(self) -> NoReturn:
        """Look, and move etcd's leadership away while this masterd leads, until cancelled."""
        member = await self._wait_for_member()
        while True:
            try:
                await self._check(member)
            except NodectlError as error:
                log.debug("the etcd member on this PC: %s", error)
            await set_within(self._wake, _CHECK_EVERY_S)
            self._wake.clear()

    async def _wait_for_member(self) -> str:
        """The member on this PC. Looked for again and again: a PC may get its address after its services, and a name
        may not be known yet. Where there is none, nothing has to be kept apart."""
        while self._find is not None:
            found = await self._find()
            if found.member is not None:
                log.info("the etcd member on this PC is %s", found.member)
                return found.member
            self._log_once.log(logging.INFO, f"no etcd member on this PC ({found.why}); --local-member names it")
            await asyncio.sleep(_FIND_AGAIN_S)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _check(self, member: str) -> None:
        try:
            status = await self._etcd.status(member, timeout_s=_STATUS_S)
        except NodectlError:
            self._set_hosts_etcd_leader(beside=False)
            self.problem = None
            raise
        beside = status.leader == status.member
        self._set_hosts_etcd_leader(beside=beside)
        confirm = self._leadership_check() if beside else None
        if confirm is None:
            self.problem = None
        elif time.monotonic() >= max(self._not_before, self._moved_at + _MOVE_AGAIN_S):
            await confirm()
            await self._move(member, status.member)

    def _set_hosts_etcd_leader(self, *, beside: bool) -> None:
        if beside != self.hosts_etcd_leader:
            self.hosts_etcd_leader = beside
            self._changed()

    async def _move(self, member: str, own: int) -> None:
        self._moved_at = time.monotonic()
        try:
            target = await self._target(member, own)
            if isinstance(target, Member):
                await self._etcd.move_leader(member, target.id)
                log.info("moved etcd's leadership to member %s, on another PC", _name(target))
                self.problem = None
                self._wake.set()
                return
            why = target
        except NodectlError as error:
            why = str(error)
        self.problem = (
            f"this PC leads both etcd and the cluster, so its death would take seconds instead of a fraction: {why}"
        )
        self._limited_log.log(logging.WARNING, self.problem)

    async def _target(self, member: str, own: int) -> Member | str:
        """Another voting member that answers and follows the same leader, or why there is none. Which endpoint is which
        member they say themselves: names and addresses may be written in many ways."""
        voting = {item.id: item for item in await self._etcd.members() if item.id != own and not item.learner}
        if not voting:
            return "etcd has no other member"
        others = [endpoint for endpoint in self._etcd.settings.endpoints if endpoint != member]
        for status in await asyncio.gather(*(self._status(endpoint) for endpoint in others)):
            if status is not None and status.leader == own and status.member in voting:
                return voting[status.member]
        known = {host_port(endpoint) for endpoint in others}
        strange = [item for item in voting.values() if known.isdisjoint(_addresses(item))]
        why = (
            f"no other member of etcd answers at {', '.join(others)}" if others else "--endpoints names no other member"
        )
        if not strange:
            return why
        told = "; ".join(f"{_name(item)} is at {', '.join(_addresses(item)) or 'no address'}" for item in strange)
        return f"{why} (etcd says: {told})"

    async def _status(self, endpoint: str) -> MemberStatus | None:
        try:
            return await self._etcd.status(endpoint, timeout_s=_STATUS_S)
        except NodectlError:
            return None


def _name(member: Member) -> str:
    return member.name or f"{member.id:x}"


def _addresses(member: Member) -> list[str]:
    """Where it says that it is to be asked, without what is no address."""
    found = []
    for url in member.client_urls:
        with suppress(Invalid):
            found.append(host_port(url))
    return found
