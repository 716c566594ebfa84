"""A run: clients at work while hosts are struck by one fault after another; then everything is judged.

    python -m tests.faults.hosts [--duration 10m] [--seed N] [--only power-off,ring] [--keep DIR]

Kept in the directory: schedule.jsonl (the seed's, as it came about), history-*.jsonl, every log, verdict.txt.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from nodestore.errors import NodectlError
from nodestore.etcd import KV
from nodestore.keys import prefix_end
from nodestore.watch import follow
from tests.faults import checks, history_checks, linearizable, noded_log
from tests.faults.history import Event, Recorder, calls, load, merged
from tests.faults.hosts.disks import Disks
from tests.faults.hosts.faults import FAULTS, UNABLE, Fault
from tests.faults.hosts.pc import PROGRAMS
from tests.faults.hosts.site import Hosts
from tests.faults.hosts.trial import Caller
from tests.waiting import eventually

_RESTART_S = 1.0
_SETTLE_S = 90.0
_PAUSE_S = (1.0, 6.0)
_GO_ON_S = 60.0
_LAST_S = 30.0
_WORKS = 5
MEMBERS = ("h1", "h2", "h3")


@dataclass
class Struck:
    """A fault that was done: times since the run's beginning, and how long no command was acknowledged around it."""

    name: str
    told: str
    at_s: float
    lasted_s: float
    gap_ms: float = 0.0


@dataclass
class Run:
    """One. `say` hears a line for each fault."""

    directory: Path
    seed: int
    duration_s: float
    only: Sequence[str] = ()
    say: Callable[[str], None] = print
    struck: list[Struck] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _expected: set[tuple[str, str]] = field(default_factory=set)

    async def go(self) -> list[str]:
        """What is wrong; empty when all is as it must be."""
        names = self._names()
        with Recorder(self.directory / "history-store.jsonl") as record:
            async with (
                Disks(self.directory, MEMBERS, slowable="slow-disk" in names, seed=self.seed) as disks,
                Hosts(self.directory, members=len(MEMBERS), disks=disks.slow) as hosts,
                watching(hosts, record),
            ):
                callers = self._callers(hosts)
                try:
                    async with self._kept_running(hosts):
                        await self._storm(hosts, callers, names)
                    await self._judge(hosts, callers)
                finally:
                    for caller in callers:
                        caller.stop()
        return self.wrong

    def _callers(self, hosts: Hosts) -> list[Caller]:
        """One finds the leader through etcd, one by asking masters; the third reads the journal's stream."""
        common = {"nodes": list(hosts.pcs), "seed": self.seed, "callers": 2, "pause_s": 0.02}
        urls = [pc.url for pc in hosts.pcs.values()]
        return [
            Caller(hosts, self.directory, name="c1", endpoints=hosts.site.endpoints(), registers=3, **common),
            Caller(hosts, self.directory, name="c2", endpoints=urls, cluster=None, **common),
            Caller(
                hosts, self.directory, name="c3", endpoints=urls, cluster=None, **{**common, "callers": 0}, reader=True
            ),
        ]

    # --- faults ---

    def _names(self) -> list[str]:
        """The faults of this run: those that were asked for, as far as this machine can do them."""
        names = []
        for name in FAULTS:
            if self.only and name not in self.only:
                continue
            why = UNABLE[name]() if name in UNABLE else None
            if why is None:
                names.append(name)
            else:
                self.say(f"{name} is left out: {why}")
        return names

    async def _storm(self, hosts: Hosts, callers: Sequence[Caller], names: Sequence[str]) -> None:
        dice = random.Random(self.seed)
        begun = time.monotonic()
        left: list[str] = []
        await self._works(callers[0], "commands go through")
        while time.monotonic() < begun + self.duration_s:
            if not left:  # each in its turn, in an order of the seed's
                left = dice.sample(names, len(names))
            name = left.pop()
            fault = FAULTS[name](hosts, random.Random(dice.random()))
            struck = await self._strike(hosts, name, fault, begun)
            await self._works(callers[0], f"work goes on after {name}: {fault.told}")
            if name in ("power-off", "wipe", "full-disk", "kill"):
                await hosts.ready()
            struck.gap_ms = gap(callers[0], begun + struck.at_s, time.monotonic())
            self._note(struck)
            await asyncio.sleep(dice.uniform(*_PAUSE_S))

    async def _works(self, caller: Caller, what: str) -> None:
        since = time.monotonic()
        await eventually(lambda: len(caller.acknowledged(since)) > _WORKS, what, timeout_s=_GO_ON_S)

    async def _strike(self, hosts: Hosts, name: str, fault: Fault, begun: float) -> Struck:
        at = time.monotonic()
        self._expected = {(host, program) for host in hosts.pcs for program in PROGRAMS}
        try:
            await fault.begin()
            await asyncio.sleep(fault.lasts_s)
        finally:
            await fault.end()
            self._expected = set()
        struck = Struck(name, fault.told, round(at - begun, 3), round(time.monotonic() - at, 3))
        self.struck.append(struck)
        return struck

    def _note(self, struck: Struck) -> None:
        with (self.directory / "schedule.jsonl").open("a") as file:
            file.write(json.dumps(struck.__dict__) + "\n")
        self.say(
            f"{struck.at_s:7.1f} s  {struck.name:<10} for {struck.lasted_s:4.1f} s: {struck.told}; "
            f"no command acknowledged for {struck.gap_ms:.0f} ms"
        )

    @contextlib.asynccontextmanager
    async def _kept_running(self, hosts: Hosts) -> AsyncIterator[None]:
        """As a service manager does: what ended on a PC that has power is started again."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(_RESTART_S)
                for name, pc in hosts.pcs.items():
                    for program in pc.programs() if pc.powered else ():
                        if not pc.alive(program) and (program in pc.running or not self._expected):
                            self.say(f"           {program} of {name} had ended: {pc.said(program, 1)[:200]}")
                            pc.start(program)

        task = asyncio.create_task(keep(), name="service manager")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- verdict ---

    async def _judge(self, hosts: Hosts, callers: Sequence[Caller]) -> None:
        hosts.lan.heal()
        await hosts.ready()
        for caller in callers:
            await asyncio.to_thread(caller.stop)

        async def settled() -> bool:
            store = await checks.read_store(hosts.etcd, hosts.keys)
            return not checks.nodes_behind(store)

        try:
            await eventually(settled, "nodes", timeout_s=_SETTLE_S)
        except AssertionError:
            self.wrong += checks.nodes_behind(await checks.read_store(hosts.etcd, hosts.keys))
        await asyncio.sleep(0.5)
        self.wrong += await self._masters_differ(hosts)
        store = await checks.read_store(hosts.etcd, hosts.keys)
        events = merged(load(path) for path in sorted(self.directory.glob("history*.jsonl")))
        self._check(events, store)

    def _check(self, events: Sequence[Event], store: checks.Store) -> None:
        whole = history_checks.recorded(events, store)
        done = calls(events)
        self.wrong += history_checks.safety(events, done, whole)
        self.wrong += checks.views_that_differ(whole)
        self.wrong += history_checks.disobedient_nodes(events, whole)
        self.wrong += history_checks.disobedient_nodes(self._obeyed(), whole)
        self.wrong += history_checks.broken_streams(events, whole, up_to=last_told(done))
        verdicts = linearizable.judge(done)
        self.wrong += linearizable.violations(verdicts)
        for line in linearizable.given_up(verdicts):
            self.say(line)
        ends = [call.end for call in done if call.op == "command"]
        self.say(
            f"{len(self.struck)} faults, {ends.count('ok')} commands acknowledged, {ends.count('unknown')} of unknown "
            f"outcome, {ends.count('fail')} not done, {len(whole.terms)} terms, {len(whole.commands)} in the journal; "
            f"{sum(found.tried for found in verdicts.values())} orders tried on {len(verdicts)} documents"
        )

    def _obeyed(self) -> list[Event]:
        """What each noded said that it obeyed: more than its status shows, which tells the latest only."""
        logs = {path.name.removesuffix("-noded.log"): path for path in self.directory.glob("log/*-noded.log")}
        return [event for node, path in sorted(logs.items()) for event in noded_log.obeyed(node, path)]

    async def _masters_differ(self, hosts: Hosts) -> list[str]:
        """All masters come to have the same documents in memory."""

        async def agree() -> bool:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, NodectlError):
                found = [await hosts.ask(name, "/v1/documents?consistency=local") for name in hosts.pcs]
                return all(view["documents"] == found[0]["documents"] for view in found)
            return False

        try:
            await eventually(agree, "masters agree", timeout_s=_LAST_S)
        except AssertionError:
            return ["the masters have different states in memory"]
        return []


def last_told(done: Sequence[Any]) -> int:
    """The highest index that a client was told: at least so far a stream must have come."""
    return max((call.result["index"] for call in done if call.op == "command" and call.end == "ok"), default=0)


def gap(caller: Caller, since: float, until: float) -> float:
    """The longest time without an acknowledgement in that span, in milliseconds."""
    caller.look()
    times = [event["at"] for event in caller.events if event["type"] == "ok" and since - 1.0 <= event["at"] <= until]
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0) * 1e3


@contextlib.asynccontextmanager
async def watching(hosts: Hosts, record: Recorder) -> AsyncIterator[None]:
    """Writes down what masters and nodes write as etcd shows it, through a watch that is not a master's."""

    async def watch() -> None:
        keys = hosts.keys
        watched = history_checks.Watched(record.seen, keys)
        stream = follow(hosts.etcd, keys.prefix, end=prefix_end(keys.prefix), revision=1)
        async with aclosing(stream):
            async for changes in stream:
                for event in changes.events:
                    if event.value is not None:
                        watched.put(
                            KV(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease)
                        )

    task = asyncio.create_task(watch(), name="watch of the store")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
