"""How the leader is hurt: through the API of its own masterd, or, in a cluster of `nodectl dev`, its process."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from nodestore.errors import OutcomeUnknown

if TYPE_CHECKING:
    from nodectl.client import Client, Leader
    from nodectl.dev.cluster import DevCluster
    from nodestore.schema.api_types import DrillKind


class LeaderFault(Protocol):
    """One way. `description`: what it does, for people."""

    description: str

    async def inject(self, leader: Leader) -> None:
        """Do it. Denied, Conflict, Unavailable...: nothing was done."""
        ...

    async def revert(self, leader: Leader) -> str:
        """Once another leads: put right what can be; what was, for people. Called whatever happened after `inject`."""
        ...


class HandoverFault:
    """A planned switchover."""

    description = "is asked to hand over"

    def __init__(self, client: Client, timeout_s: float) -> None:
        self._client, self._timeout_s = client, timeout_s

    async def inject(self, leader: Leader) -> None:
        await self._client.switchover(timeout_s=self._timeout_s)

    async def revert(self, leader: Leader) -> str:
        return f"{leader.id} stands by"


class RequestedFault:
    """masterd does it to itself, where it was started with --allow-drills."""

    def __init__(self, client: Client, how: DrillKind, seconds: float) -> None:
        self._client, self._how, self._seconds = client, how, seconds
        self._begun_at = 0.0
        self.description = "ends abruptly" if how == "kill" else f"does nothing for {seconds:g} s"

    async def inject(self, leader: Leader) -> None:
        self._begun_at = time.monotonic()
        try:
            await self._client.drill(self._how, seconds=self._seconds, term=leader.term.revision)
        except OutcomeUnknown:
            return  # it may well be dead: that another leads, or does not, will tell

    async def revert(self, leader: Leader) -> str:
        if self._how == "kill":
            return f"{leader.id} is down, until its service manager starts it again"
        await asyncio.sleep(max(0.0, self._begun_at + self._seconds - time.monotonic()))
        return f"{leader.id} woke up"


class ProcessFault:
    """The process of a development cluster: SIGKILL, or SIGSTOP for a while."""

    def __init__(self, cluster: DevCluster, how: str, seconds: float) -> None:
        self._cluster, self._how, self._seconds = cluster, how, seconds
        self._begun_at = 0.0
        self.description = "is killed (-9)" if how == "kill" else f"is frozen for {seconds:g} s"

    async def inject(self, leader: Leader) -> None:
        self._begun_at = time.monotonic()
        if self._how == "kill":
            await self._cluster.kill(leader.id)
        else:
            self._cluster.suspend(leader.id)

    async def revert(self, leader: Leader) -> str:
        if self._how == "kill":
            await self._cluster.start(leader.id)
            return f"{leader.id} is started again"
        try:
            await asyncio.sleep(max(0.0, self._begun_at + self._seconds - time.monotonic()))
        finally:
            self._cluster.resume(leader.id)
        return f"{leader.id} woke up"
