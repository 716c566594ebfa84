"""Keeps the leader and etcd's leader on different PCs, so that the failure of one PC costs only one of the two.

etcd's `MoveLeader` call cannot be fenced. Therefore only the leader sends it, after it has confirmed its term, and at
most once in ten seconds. So two masterds that both believe that they lead cannot move etcd's leadership back and forth.
The call needs etcd's root role.
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
from nodestore.etcd import maintenance as etcd_maintenance
from nodestore.etcd.session import Etcd, Member, MemberStatus
from nodestore.etcd.types import host_port
from nodestore.support.logs import RateLimitedLog
from nodestore.support.waiting import set_within

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 2.0
_MOVE_AGAIN_S = 10.0
_FIRST_MOVE_DELAY_S = 2.0
_STATUS_S = 1.0
_FIND_AGAIN_S = 60.0


class EtcdLeaderPlacement:
    """Watches the etcd member on this PC, and moves etcd's leadership away from it while this masterd leads.

    find: finds the etcd member on this PC; None after `--local-member none`. leadership_check: returns None while this
    masterd does not lead, else a function that returns once the term is confirmed and raises if the term is over.
    changed: called when `hosts_etcd_leader` has changed.
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
        """Whether the member on this PC leads etcd. If so, this masterd ranks lower as a candidate. A member that does
        not answer counts as not leading, because it is about to lose etcd's leadership."""
        self.problem: str | None = None
        """Why both leaders are still on this PC; None if they are not, or if the member does not answer."""
        self._moved_at = self._not_before = -math.inf
        self._wake = asyncio.Event()
        self._limited_log, self._log_once = RateLimitedLog(log, 60.0), RateLimitedLog(log, math.inf)

    def notify_leading(self) -> None:
        """Wake the check. Called when this masterd becomes the leader, as etcd's leadership may be on this PC then."""
        # etcd's leadership is not moved before 2 s: right after a failure some members may still be unreachable.
        self._not_before = time.monotonic() + _FIRST_MOVE_DELAY_S
        self._wake.set()

    async def run(self) -> NoReturn:
        """Check every 2 s, and move etcd's leadership away while this masterd leads, until cancelled."""
        member = await self._wait_for_member()
        while True:
            try:
                await self._check(member)
            except NodectlError as error:
                log.debug("the etcd member on this PC: %s", error)
            await set_within(self._wake, _CHECK_EVERY_S)
            self._wake.clear()

    async def _wait_for_member(self) -> str:
        """Return the endpoint of the member on this PC. Retry every 60 s until it is found. Without `find`, never
        return."""
        while self._find is not None:
            found = await self._find()
            if found.member is not None:
                log.info("the etcd member on this PC is %s", found.member)
                return found.member
            self._log_once.log(logging.INFO, f"no etcd member on this PC ({found.why}); name it with --local-member")
            # Retried: a PC may get its addresses after its services start, and a name may not resolve yet.
            await asyncio.sleep(_FIND_AGAIN_S)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _check(self, member: str) -> None:
        try:
            status = await etcd_maintenance.status(self._etcd, member, timeout_s=_STATUS_S)
        except NodectlError:
            self._set_hosts_etcd_leader(hosts=False)
            self.problem = None
            raise
        hosts = status.leader == status.member
        self._set_hosts_etcd_leader(hosts=hosts)
        confirm = self._leadership_check() if hosts else None
        if confirm is None:
            self.problem = None
        elif time.monotonic() >= max(self._not_before, self._moved_at + _MOVE_AGAIN_S):
            await confirm()
            await self._move(member, status.member)

    def _set_hosts_etcd_leader(self, *, hosts: bool) -> None:
        if hosts != self.hosts_etcd_leader:
            self.hosts_etcd_leader = hosts
            self._changed()

    async def _move(self, member: str, own: int) -> None:
        self._moved_at = time.monotonic()
        try:
            target = await self._target(member, own)
            if isinstance(target, Member):
                await etcd_maintenance.move_leader(self._etcd, member, target.id)
                log.info("moved etcd's leadership to member %s, on another PC", _name(target))
                self.problem = None
                self._wake.set()
                return
            why = target
        except NodectlError as error:
            why = str(error)
        self.problem = (
            "this PC leads both etcd and the cluster, so its failure would interrupt service for seconds instead of a "
            f"fraction of a second: {why}"
        )
        self._limited_log.log(logging.WARNING, self.problem)

    async def _target(self, member: str, own: int) -> Member | str:
        """Return another voting member that answers and follows the same leader, or the reason why there is none."""
        # The member id in a status shows which member is at an endpoint. Addresses are not compared for this, because
        # one address may be written in many ways.
        members = await etcd_maintenance.members(self._etcd)
        voting = {item.id: item for item in members if item.id != own and not item.learner}
        if not voting:
            return "etcd has no other member"
        others = [endpoint for endpoint in self._etcd.settings.endpoints if endpoint != member]
        for status in await asyncio.gather(*(self._status(endpoint) for endpoint in others)):
            if status is not None and status.leader == own and status.member in voting:
                return voting[status.member]
        known = {host_port(endpoint) for endpoint in others}
        unlisted = [item for item in voting.values() if known.isdisjoint(_addresses(item))]
        why = (
            f"no other member of etcd answers at {', '.join(others)}" if others else "--endpoints names no other member"
        )
        if not unlisted:
            return why
        listed = "; ".join(f"{_name(item)} is at {', '.join(_addresses(item)) or 'no address'}" for item in unlisted)
        return f"{why} (etcd lists: {listed})"

    async def _status(self, endpoint: str) -> MemberStatus | None:
        try:
            return await etcd_maintenance.status(self._etcd, endpoint, timeout_s=_STATUS_S)
        except NodectlError:
            return None


def _name(member: Member) -> str:
    return member.name or f"{member.id:x}"


def _addresses(member: Member) -> list[str]:
    """The member's advertised client addresses as host:port; malformed ones are left out."""
    addresses = []
    for url in member.client_urls:
        with suppress(Invalid):
            addresses.append(host_port(url))
    return addresses
