"""Failovers, as a client that reconnects by itself sees them: the last command acknowledged by the old leader to the
first acknowledged by the new one.

Which leader acknowledged a command is told by its index and by where the new term begins in the journal; one that is
answered as repeated had been committed by the old leader, but it was the new one that said so. So the gap is the one
that spans the fault, whatever else was slow. Kinds of fault take turns: a takeover on mere suspicion makes the next one
more patient (masterd/suspicion.py), any other ends that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from bench.commands import command
from bench.figures import Figure, figure
from bench.ground import SETTLE_S, Ground, until
from nodectl.client.wire import CommandResult
from nodestore.errors import NodectlError

_CALLERS = 2
_BEFORE_S = 0.25
_AFTER = 10
_STEADY_S = 0.3

Hurt = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class Acknowledged:
    """When a command was, by the clock of the caller, and by whom."""

    at: float
    index: int
    repeated: bool


@dataclass(slots=True)
class Gaps:
    """In ms, and how many commands or requests failed meanwhile."""

    killed: list[float]
    paused: list[float]
    handed: list[float]
    errors: int = 0


class Failovers:
    """Hurts the leader of a cluster again and again."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._cluster, self._client = ground.cluster, ground.client
        self.gaps = Gaps([], [], [])

    async def measure(self, killed: int, paused: int, handed: int) -> list[Figure]:
        """So many of each, in turns."""
        for turn in range(max(killed, paused)):
            if turn < killed:
                await self._once(self.gaps.killed, self._kill)
            if turn < paused:
                await self._once(self.gaps.paused, self._pause)
        for _ in range(handed):
            await self._once(self.gaps.handed, self._hand_over)
        return self._figures()

    async def _once(self, gaps: list[float], hurt: Hurt) -> None:
        leader = (await self._client.leader()).id
        gaps.append(await self._gap(leader, hurt))
        await self._whole_again(leader)

    async def _kill(self, leader: str) -> None:
        """The process alone: a masterd starts nothing, and to look for its children keeps a core busy all the while."""
        process = self._cluster.processes[leader].process
        assert process is not None
        psutil.Process(process.pid).kill()

    async def _pause(self, leader: str) -> None:
        self._cluster.suspend(leader)

    async def _hand_over(self, leader: str) -> None:
        del leader
        await self._client.switchover()

    async def _gap(self, leader: str, hurt: Hurt) -> float:
        """In ms, from the old leader's last acknowledgement to the new one's first."""
        before = (await self._client.leader()).term
        seen: list[Acknowledged] = []
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                try:
                    done = await self._one()
                except NodectlError as error:
                    self.gaps.errors += 1
                    self._ground.say(f"a command failed: {error}")
                    continue
                seen.append(Acknowledged(time.perf_counter(), done.index, done.repeated))

        async with asyncio.TaskGroup() as callers:
            for _ in range(_CALLERS):
                callers.create_task(caller())
            try:
                await asyncio.sleep(_BEFORE_S)
                known = max((item.index for item in seen), default=0)
                await hurt(leader)
                # Who asks meanwhile is one more that waits for the new leader, on the same two cores.
                answered = len(seen)
                await until(lambda: _are(len(seen) > answered + _AFTER), "commands are acknowledged again", 0.05)
                first = await self._begins(leader, before.revision, known)
                await until(lambda: _more_than(seen, first), "commands are acknowledged again", 0.02)
            finally:
                stop.set()
        new = [item.at for item in seen if item.index >= first or (item.repeated and item.at > _last_of(seen, first))]
        return (min(new) - _last_of(seen, first)) * 1e3

    async def _one(self) -> CommandResult:
        return await command(self._client)

    async def _begins(self, leader: str, revision: int, known: int) -> int:
        """The first index of the term after that of `revision`. `known`: one that was acknowledged before it."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                try:
                    now = await self._client.leader()
                    if now.term.revision > revision:
                        found = await self._client.history(after=max(0, known - 10), limit=200)
                        newer = [entry["index"] for entry in found["entries"] if entry["term"] > revision]
                        if newer:
                            return min(newer)
                except NodectlError as error:
                    self._ground.say(f"after {leader}: {error}")
                await asyncio.sleep(0.02)

    async def _whole_again(self, name: str) -> None:
        """The one that was hurt stands by: as the process that runs now, not as a candidacy that its lease keeps."""
        if self._cluster.is_suspended(name):
            self._cluster.resume(name)
        hurt = self._cluster.processes[name].process
        if hurt is not None and not hurt.alive:
            await self._cluster.kill(name)  # nothing of it is left
        await self._cluster.start(name)
        process = self._cluster.processes[name].process
        assert process is not None

        async def stands_by() -> bool:
            views = await self._client.masters()
            return any(view["pid"] == process.pid and view["role"] == "standby" for view in views)

        await until(stands_by, f"{name} stands by again")
        await asyncio.sleep(_STEADY_S)  # its follow stream must stand before it can see the next death

    def _figures(self) -> list[Figure]:
        found = self.gaps
        how = "Two callers of one Client send commands all the time; nine nodeds run."
        figures = []
        for name, gaps, goal, more in (
            ("failover: leader's process killed (-9)", found.killed, "median 25 ms, p99 100 ms", ""),
            ("failover: leader paused (SIGSTOP)", found.paused, "median 350 ms, p99 700 ms", ""),
            (
                "planned switchover", found.handed, "median 15 ms, p99 50 ms",
                f" Commands that failed in all failovers and switchovers together: {found.errors}.",
            ),
        ):  # fmt: skip
            if gaps:
                figures.append(figure(name, gaps, "ms", goal=goal, how=how + more))
        return figures


def _last_of(seen: list[Acknowledged], first: int) -> float:
    """When the old leader acknowledged its last command."""
    return max(item.at for item in seen if item.index < first and not item.repeated)


async def _are(so: bool) -> bool:
    return so


async def _more_than(seen: list[Acknowledged], first: int) -> bool:
    return sum(item.index >= first for item in seen) >= _AFTER
