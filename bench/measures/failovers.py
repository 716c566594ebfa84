"""Failover times at a client: from the last command that the old leader acknowledged to the first of the new one.

The index of a command, and the index at which the new term begins, show which leader acknowledged it. A command that is
answered as repeated was committed by the old leader, but acknowledged by the new one. So the measured gap is the one
that spans the fault, even if something else was slow.

Kinds of fault alternate, because a takeover on suspicion makes the next one slower
(masterd/election/suspicion.py), and a takeover for another cause resets that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import psutil

from bench.harness import goals
from bench.harness.cluster import WAIT_TIMEOUT_S, BenchCluster, failure_reason, poll_until
from bench.harness.commands import send_command
from bench.harness.figures import Figure, figure
from bench.harness.goals import Goal
from nodectl.client.connection.results import CommandResult
from nodectl.reports.takeover import find_takeover
from nodestore.errors import NodectlError

KILLED = "failover: leader's process killed (-9)"
_CALLERS = 2
_BEFORE_S = 0.25
_AFTER = 10
_STEADY_S = 0.3
_PAGE = 200

InjectFault = Callable[[str], Awaitable[None]]
"""Injects a fault into the master of this name."""


@dataclass(slots=True)
class Acknowledged:
    """The acknowledgement of one command. `at`: seconds, on the caller's clock."""

    at: float
    index: int
    repeated: bool


@dataclass(slots=True)
class FailoverKind:
    """A kind of fault and its results.

    planned: the intended number of trials. gaps: in milliseconds. worst: the steps of the longest
    failover, which its new leader recorded.
    """

    name: str
    goals: tuple[Goal, ...]
    inject: InjectFault
    planned: int = 0
    gaps: list[float] = field(default_factory=list)
    errors: int = 0
    repeated: int = 0
    worst: str = ""

    @property
    def note(self) -> str:
        return (
            f" Commands that failed: {self.errors}; commands that were sent again and got their first result: "
            f"{self.repeated}.{self.worst}"
        )


class Failovers:
    """Injects faults into the leader of a cluster, one after another, and measures each failover.

    is_fresh: the store is new, so a killed masterd has less memory, which the kernel must free first.
    """

    def __init__(self, bench_cluster: BenchCluster, *, is_fresh: bool = False) -> None:
        self._bench_cluster = bench_cluster
        self._cluster, self._client = bench_cluster.cluster, bench_cluster.client
        killed = goals.KILLED_FRESH if is_fresh else goals.KILLED_LATER
        self._killed = FailoverKind(KILLED + ", fresh store" * is_fresh, killed, self._kill)
        self._paused = FailoverKind("failover: leader paused (SIGSTOP)", goals.PAUSED, self._pause)
        self._handed = FailoverKind("planned switchover", goals.HANDED_OVER, self._hand_over)
        self._kinds = (self._killed, self._paused, self._handed)
        self._failures = ""
        self._acknowledged = 0
        self._begun_at = 0

    async def measure(self, killed: int, paused: int, handed: int) -> None:
        """Measure this many failovers of each kind, in turns. A failed trial ends them; results are kept."""
        self._killed.planned, self._paused.planned, self._handed.planned = killed, paused, handed
        try:
            self._begun_at = (await self._send_one()).index
            async with self._bench_cluster.http_session() as self._http:
                for turn in range(max(killed, paused)):
                    if turn < killed:
                        await self._run_trial(self._killed)
                    if turn < paused:
                        await self._run_trial(self._paused)
                for _ in range(handed):
                    await self._run_trial(self._handed)
        except* (NodectlError, TimeoutError) as errors:
            self._failures = f"the failovers broke off: {failure_reason(errors)}"
            self._bench_cluster.report(self._failures)

    async def _run_trial(self, kind: FailoverKind) -> None:
        leader = (await self._client.leader()).id
        gap = await self._gap(leader, kind)
        kind.gaps.append(gap)
        await self._wait_recovered(leader)
        if gap == max(kind.gaps):
            newest = find_takeover(await self._client.terms(), None, time.time())
            steps = ", ".join(f"{step.phase} {step.took_s * 1e3:.0f}" for step in newest.steps[1:])
            kind.worst = f" The longest took {gap:.0f} ms. Its steps in ms, as the new leader recorded them: {steps}."

    async def _kill(self, leader: str) -> None:
        """Kill the process only: masterd has no children, and a search for them would keep a core busy meanwhile."""
        process = self._cluster.processes[leader].process
        assert process is not None
        psutil.Process(process.pid).kill()

    async def _pause(self, leader: str) -> None:
        self._cluster.suspend(leader)

    async def _hand_over(self, leader: str) -> None:
        del leader
        await self._client.switchover()

    async def _gap(self, leader: str, kind: FailoverKind) -> float:
        """Inject one fault; return the gap in ms from the old leader's last acknowledgement to the new one's first."""
        before = (await self._client.leader()).term
        answers: list[Acknowledged] = []
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                try:
                    done = await self._send_one()
                except NodectlError as error:
                    kind.errors += 1
                    self._bench_cluster.report(f"a command failed: {error}")
                    continue
                answers.append(Acknowledged(time.perf_counter(), done.index, done.repeated))

        async with asyncio.TaskGroup() as callers:
            for _ in range(_CALLERS):
                callers.create_task(caller())
            try:
                await asyncio.sleep(_BEFORE_S)
                known = max((item.index for item in answers), default=0)
                await kind.inject(leader)
                # No other requests until commands are acknowledged again: they would take CPU time from the takeover.
                count = len(answers)
                await poll_until(lambda: _holds(len(answers) > count + _AFTER), "commands are acknowledged again", 0.05)
                first = await self._first_index(leader, before.revision, known)
                await poll_until(lambda: _wait_more_than(answers, first), "commands are acknowledged again", 0.02)
            finally:
                stop.set()
        kind.repeated += sum(item.repeated for item in answers)
        self._acknowledged = max(item.index for item in answers)
        last = _last_of(answers, first)
        new = [item.at for item in answers if item.index >= first or (item.repeated and item.at > last)]
        return (min(new) - last) * 1e3

    async def _send_one(self) -> CommandResult:
        return await send_command(self._client)

    async def _first_index(self, leader: str, revision: int, known: int) -> int:
        """Return the first index of a term newer than that of `revision`. `known`: an index acknowledged before it."""
        after = max(0, known - 10)
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while True:
                try:
                    now = await self._client.leader()
                    if now.term.revision > revision:
                        found = (await self._client.history(after=after, limit=_PAGE))["entries"]
                        entries = [entry for entry in found if "problem" not in entry]
                        newer = [entry["index"] for entry in entries if entry["term"] > revision]
                        if newer:
                            return min(newer)
                        after = max([after, *(entry["index"] for entry in entries)])
                except NodectlError as error:
                    self._bench_cluster.report(f"after {leader}: {error}")
                await asyncio.sleep(0.02)

    async def _wait_recovered(self, name: str) -> None:
        """Wait until the master is a standby and has caught up.

        Its pid must be that of the running process: a candidacy of the killed one may live until its lease expires.
        """
        if self._cluster.is_suspended(name):
            self._cluster.resume(name)
        former = self._cluster.processes[name].process
        if former is not None and not former.alive:
            await self._cluster.kill(name)  # remove what is left of it
        await self._cluster.start(name)
        process = self._cluster.processes[name].process
        assert process is not None

        async def is_standby() -> bool:
            views = await self._client.masters()
            if not any(view["pid"] == process.pid and view["role"] == "standby" for view in views):
                return False
            try:
                async with self._http.get(f"{self._cluster.master_urls[name]}/v1/health") as answer:
                    return int((await answer.json())["index"]) >= self._acknowledged  # it has caught up
            except aiohttp.ClientError:
                return False

        await poll_until(is_standby, f"{name} is a standby again")
        await asyncio.sleep(_STEADY_S)  # it must receive heartbeats before it can notice the next death

    def figures(self) -> list[Figure]:
        """Return the figures of the kinds with at least one trial, and how many commands failed in switchovers."""
        found = [self._figure(kind) for kind in self._kinds if kind.gaps]
        if self._handed.gaps:
            how = f"Of commands that two callers sent all the time during {len(self._handed.gaps):,} switchovers."
            name = "commands that failed in planned switchovers"
            found.append(figure(name, [float(self._handed.errors)], "", goals=[goals.NO_ERROR], how=how))
        return found

    def _figure(self, kind: FailoverKind) -> Figure:
        done = len(kind.gaps)
        how = (
            "Two callers of one Client send commands all the time; nine nodeds run. Before, the cluster had run "
            f"{self._begun_at:,} commands.{kind.note}"
        )
        if done < kind.planned:
            how += f" After {done} of {kind.planned} trials {self._failures}."
        return figure(kind.name, kind.gaps, "ms", goals=kind.goals, how=how, planned=kind.planned)

    def missing(self) -> dict[str, str]:
        """Return why a kind has no trial, by its name."""
        return {kind.name: self._failures for kind in self._kinds if kind.planned and not kind.gaps}


def _last_of(answers: list[Acknowledged], first: int) -> float:
    """Return when the old leader acknowledged its last command. first: the first index of the new term."""
    return max(item.at for item in answers if item.index < first and not item.repeated)


async def _holds(condition: bool) -> bool:
    return condition


async def _wait_more_than(answers: list[Acknowledged], first: int) -> bool:
    return sum(item.index >= first for item in answers) >= _AFTER
