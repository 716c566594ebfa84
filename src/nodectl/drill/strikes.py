"""The faults of a drill: requested from the leader's own masterd, or injected into its process (`nodectl dev`)."""

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
    """A fault of the leader. `description`: the rest of a sentence that begins with the leader's name."""

    description: str

    async def inject(self, leader: Leader) -> None:
        """Inject the fault. If it raises Denied, Conflict or Unavailable, nothing was done."""
        ...

    async def revert(self, leader: Leader) -> str:
        """Undo the fault as far as possible; return a sentence about the old leader's state.

        Called after `inject`, also if no other master took over.
        """
        ...


class HandoverFault:
    """A planned switchover."""

    description = "is asked to hand over"

    def __init__(self, client: Client, timeout_s: float) -> None:
        self._client, self._timeout_s = client, timeout_s

    async def inject(self, leader: Leader) -> None:
        await self._client.switchover(timeout_s=self._timeout_s)

    async def revert(self, leader: Leader) -> str:
        return f"{leader.id} is a standby"


class RequestedFault:
    """A fault that the leader's masterd injects into itself; it must have been started with --allow-drills."""

    def __init__(self, client: Client, how: DrillKind, seconds: float) -> None:
        self._client, self._how, self._seconds = client, how, seconds
        self._begun_at = 0.0
        self.description = "ends without cleanup (as by kill -9)" if how == "kill" else f"is frozen for {seconds:g} s"

    async def inject(self, leader: Leader) -> None:
        self._begun_at = time.monotonic()
        try:
            await self._client.drill(self._how, seconds=self._seconds, term=leader.term.revision)
        except OutcomeUnknown:
            return  # the leader may have died before it answered; a takeover will show it

    async def revert(self, leader: Leader) -> str:
        if self._how == "kill":
            return f"{leader.id} is down until its service manager starts it again"
        await asyncio.sleep(max(0.0, self._begun_at + self._seconds - time.monotonic()))
        return f"{leader.id} runs again"


class ProcessFault:
    """A fault of a process of a development cluster: SIGKILL, or SIGSTOP for `seconds`."""

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
        return f"{leader.id} runs again"
