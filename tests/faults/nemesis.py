"""Random faults of the processes of a cluster, chosen by a seed, and undone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nodectl.dev.cluster import DevCluster
from nodestore.errors import NodectlError


@dataclass
class Nemesis:
    """Injects one fault after another, so that the effect of one is nearly over when the next begins.

    `schedule` lists each fault with its time. The same seed gives the same faults on the same roles, not at exactly the
    same times.
    """

    cluster: DevCluster
    dice: random.Random
    leader: Callable[[], Awaitable[str | None]]
    schedule: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def _names(self, program: str) -> list[str]:
        return [name for name, part in self.cluster.processes.items() if part.program == program]

    def _note(self, what: str) -> None:
        self.schedule.append(f"{time.monotonic() - self.began:7.2f} s  {what}")

    async def run(self, duration_s: float) -> None:
        """Inject faults for `duration_s` seconds, then start everything again."""
        faults: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (5, self.kill_leader),
            (4, self.pause_leader),
            (2, self.kill_standby),
            (2, self.pause_standby),
            (3, self.kill_noded),
            (2, self.pause_noded),
            (2, self.kill_member),
            (2, self.pause_member),
            (1, self.kill_leader_and_member),
        ]
        weights, choices = [weight for weight, _ in faults], [fault for _, fault in faults]
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            (fault,) = self.dice.choices(choices, weights)
            await fault()
            await asyncio.sleep(self.dice.uniform(0.1, 1.0))
        await self.heal()

    async def heal(self) -> None:
        """Resume suspended processes, and start those that ended."""
        for name, part in self.cluster.processes.items():
            if part.running:
                self._resume(name)
            else:
                await self.cluster.start(name)
        self._note("everything is started again")

    async def kill_leader(self) -> None:
        await self._kill(await self._leader(), self.dice.uniform(0.0, 2.0))

    async def pause_leader(self) -> None:
        """Suspend the leader, at times beyond its lease: it then resumes deposed, without knowing it."""
        await self._pause(await self._leader(), self.dice.choice((0.3, 1.0, 3.2, 4.0)))

    async def kill_standby(self) -> None:
        await self._kill(await self._standby(), self.dice.uniform(0.0, 2.0))

    async def pause_standby(self) -> None:
        await self._pause(await self._standby(), self.dice.choice((0.5, 3.2)))

    async def kill_noded(self) -> None:
        await self._kill(self.dice.choice(self._names("noded")), self.dice.uniform(0.0, 1.0))

    async def pause_noded(self) -> None:
        await self._pause(self.dice.choice(self._names("noded")), self.dice.choice((0.5, 3.2)))

    async def kill_member(self) -> None:
        await self._kill(self.dice.choice(self._names("etcd")), self.dice.uniform(0.2, 2.0))

    async def pause_member(self) -> None:
        await self._pause(self.dice.choice(self._names("etcd")), self.dice.choice((0.3, 1.5, 3.0)))

    async def kill_leader_and_member(self) -> None:
        """Kill a leader and an etcd member together, as when a PC loses its power."""
        member = self.dice.choice(self._names("etcd"))
        await asyncio.gather(self._kill(await self._leader(), 1.0), self._kill(member, 1.0))

    async def _leader(self) -> str:
        """Return the leader according to etcd; any master, if there is none."""
        found = await self.leader()
        return found if found is not None else self.dice.choice(self._names("masterd"))

    async def _standby(self) -> str:
        leader = await self._leader()
        return self.dice.choice([name for name in self._names("masterd") if name != leader])

    async def _kill(self, name: str, down_s: float) -> None:
        self._note(f"kill -9 {name}, {down_s:.2f} s down")
        await self.cluster.kill(name)
        await asyncio.sleep(down_s)
        await self.cluster.start(name)

    async def _pause(self, name: str, paused_s: float) -> None:
        self._note(f"pause {name} for {paused_s:.1f} s")
        try:
            self.cluster.suspend(name)
        except NodectlError:
            return  # it is ending or starting at this moment
        await asyncio.sleep(paused_s)
        self._resume(name)

    def _resume(self, name: str) -> None:
        try:
            self.cluster.resume(name)
        except NodectlError:
            return
