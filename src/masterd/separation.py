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
from typing import NoReturn

from nodestore.errors import NodectlError
from nodestore.etcd import Etcd, Member
from nodestore.etcd_types import host_port
from nodestore.logs import Seldom

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_MOVE_AGAIN_S = 10.0
_SETTLE_S = 2.0
_STATUS_S = 1.0


class Separation:
    """Of one masterd. `member`: the address of the etcd member on this PC, None when there is none. `leads`: while
    this masterd leads, what returns once that is confirmed, and raises when it is not so any more; else None.

    beside: whether that member leads etcd: such a PC should not get the leader. problem: why both are on this PC.
    """

    def __init__(
        self,
        maintenance: Etcd,
        member: str | None,
        leads: Callable[[], Callable[[], Awaitable[None]] | None],
        changed: Callable[[], None],
    ) -> None:
        self._etcd, self._member, self._leads, self._changed = maintenance, member, leads, changed
        self.beside = False
        self.problem: str | None = None
        self._moved_at = self._not_before = -math.inf
        self._wake = asyncio.Event()
        self._say = Seldom(log, 60.0)

    def begun_to_lead(self) -> None:
        """Etcd's leadership is moved in a few seconds: right after a failure its members may not be all there yet."""
        self._not_before = time.monotonic() + _SETTLE_S
        self._wake.set()

    async def run(self) -> NoReturn:
        """Look, and move etcd's leadership away while this masterd leads, until cancelled."""
        if self._member is None:
            await asyncio.Event().wait()
        while True:
            try:
                await self._look(str(self._member))
            except NodectlError as error:
                log.debug("the etcd member on this PC: %s", error)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    async def _look(self, member: str) -> None:
        status = await self._etcd.status(member, timeout_s=_STATUS_S)
        beside = status.leader == status.member
        if beside != self.beside:
            self.beside = beside
            self._changed()
        confirm = self._leads() if beside else None
        if confirm is None:
            self.problem = None
        elif time.monotonic() >= max(self._not_before, self._moved_at + _MOVE_AGAIN_S):
            await confirm()
            await self._move(member, status.member)

    async def _move(self, member: str, own: int) -> None:
        self._moved_at = time.monotonic()
        try:
            target = await self._target(own)
            if target is None:
                why = "no other member of etcd answers"
            else:
                await self._etcd.move_leader(member, target.id)
                log.info("moved etcd's leadership to member %s, on another PC", target.name or f"{target.id:x}")
                self.problem = None
                self._wake.set()
                return
        except NodectlError as error:
            why = str(error)
        self.problem = (
            f"this PC leads both etcd and the cluster, so its death would take seconds instead of a fraction: {why}"
        )
        self._say(logging.WARNING, self.problem)

    async def _target(self, own: int) -> Member | None:
        """Another voting member that answers, and follows the same leader."""
        known = {host_port(endpoint) for endpoint in self._etcd.settings.endpoints}
        for member in await self._etcd.members():
            if member.id == own or member.learner:
                continue
            for url in member.client_urls:
                if host_port(url) in known and await self._follows(url, own):
                    return member
        return None

    async def _follows(self, url: str, leader: int) -> bool:
        try:
            return (await self._etcd.status(url, timeout_s=_STATUS_S)).leader == leader
        except NodectlError:
            return False
