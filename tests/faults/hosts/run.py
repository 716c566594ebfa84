"""A run: clients send commands while one fault after another is injected into hosts; then everything is judged.

    python -m tests.faults.hosts [--duration 10m] [--seed N] [--only power-off,ring] [--keep DIR] [--judge DIR]

The directory keeps schedule.jsonl (see `diary`), history-*.jsonl, stream-*.jsonl, store.jsonl, all logs, verdict.txt.
`verdict` judges them at the end of a run, however it ended, or again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from nodestore.errors import NodectlError
from tests.faults.checkers import final_store, store_checks
from tests.faults.checkers.history import Recorder
from tests.faults.hosts.clients import clients
from tests.faults.hosts.clients.clients import Caller, Clients, Readers
from tests.faults.hosts.judgement import diary, verdict
from tests.faults.hosts.judgement.store_watch import StoreWatch, watching
from tests.faults.hosts.kinds.fault import Fault, settle, strike
from tests.faults.hosts.kinds.faults import FAULTS, UNABLE
from tests.faults.hosts.kinds.overlap import OverlappingFaults, second
from tests.faults.hosts.lan.clocks import WrongClocks
from tests.faults.hosts.lan.disks import Disks
from tests.faults.hosts.lan.pc import PROGRAMS
from tests.faults.hosts.lan.site import Hosts
from tests.support.waiting import eventually

_RESTART_S = 1.0
_SETTLE_S = 90.0
_PAUSE_S = (1.0, 6.0)
_GO_ON_S = 60.0
_LAST_S = 30.0
_WATCHED_S = 1.0
_SHORT = 1 / 3
"""The part of the commands whose clients wait for only 0.3 s."""
_BRIEF = ("tests.faults.brief_masterd", "--snapshot-every", "300")
MEMBERS = ("h1", "h2", "h3")
HOSTS = (*MEMBERS, "h4", "h5")


@dataclass
class Struck:
    """An injected fault: its times since the begin of the run, and the longest gap between acknowledgements."""

    name: str
    told: str
    at_s: float
    lasted_s: float
    gap_ms: float = 0.0


@dataclass
class Run:
    """One run. `say` receives a line for each fault. `interrupted`: it was ended by Ctrl-C."""

    directory: Path
    seed: int
    duration_s: float
    only: Sequence[str] = ()
    say: Callable[[str], None] = print
    interrupted: bool = False
    _watch: StoreWatch = field(init=False)
    _expected: bool = False
    _doing: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self._diary = diary.Writer(self.directory)
        self.brief = random.Random(f"{self.seed}-brief").random() < 0.5

    async def go(self) -> list[str]:
        """Run, then judge the recordings, however the run ended. Return the findings; empty if there are none."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.interrupt)
        self._doing = asyncio.ensure_future(self._whole())
        try:
            await self._doing
        except asyncio.CancelledError:
            if not self.interrupted:
                raise
        except Exception as error:  # noqa: BLE001 - whatever ends a run, what it has recorded is judged
            self._broke(error)
        return await asyncio.to_thread(verdict.judge, self.directory, self.say)

    def interrupt(self) -> None:
        """End the run at the first Ctrl-C. A second one ends everything at once (`namespaces.inside`)."""
        if not self.interrupted and self._doing is not None:
            self.interrupted = True
            self._diary.now(ended="Ctrl-C")
            self._doing.cancel()

    def _broke(self, error: Exception) -> None:
        with (self.directory / "traceback.txt").open("a") as file:
            traceback.print_exception(error, file=file)
        self._wrong(f"the run ended: {error!r}"[:2000])
        self._diary.now(ended="an error")

    def _wrong(self, line: str) -> None:
        self._diary.write(wrong=line)

    async def _whole(self) -> None:
        names = self.fault_names()
        with Recorder(self.directory / "history-store.jsonl") as record:
            async with (
                Disks(self.directory, MEMBERS, slowable="slow-disk" in names, seed=self.seed) as disks,
                Hosts(
                    self.directory, members=len(MEMBERS), disks=disks.slow, clocks=self._clocks(names),
                    masterd=_BRIEF if self.brief else ("masterd",),
                ) as hosts,
                watching(hosts.keys, hosts.site.endpoints(), record) as self._watch,
            ):  # fmt: skip
                started = self._started(hosts)
                try:
                    async with self._kept_running(hosts):
                        await self._storm(hosts, started, names)
                        await self._settle(hosts, started)
                    self._diary.now(ended=diary.COMPLETE)
                finally:
                    await self._end(started)

    def _clocks(self, names: Sequence[str]) -> WrongClocks | None:
        """Return the adjustable clocks if the run has that fault: they cost the other runs too much."""
        return WrongClocks(self.directory / "clocks", HOSTS, self.seed) if "clock" in names else None

    def _started(self, hosts: Hosts) -> Clients:
        """Start the clients: c1 finds the leader through etcd, c2 through masters, c3 reads the journal's stream."""
        common = {"nodes": list(hosts.pcs), "seed": self.seed, "pause_s": 0.02, "short": _SHORT}
        urls = [pc.url for pc in hosts.pcs.values()]
        c1 = Caller(
            hosts, self.directory, name="c1", endpoints=hosts.site.endpoints(), callers=2, registers=3, **common
        )
        c2 = Caller(hosts, self.directory, name="c2", endpoints=urls, cluster=None, callers=2, **common)
        c3 = Caller(hosts, self.directory, name="c3", endpoints=urls, cluster=None, callers=0, reader=True, **common)
        started = Clients((c1, c2), c3, Readers(hosts, self.directory))
        self._diary.write(run={
            "seed": self.seed, "duration_s": self.duration_s, "only": list(self.only), "brief": self.brief,
            "clients": [caller.name for caller in started.callers],
            "readers": [f"{c3.name}-reader", *started.readers.streams],
        })  # fmt: skip
        return started

    async def _end(self, started: Clients) -> None:
        """End all clients, also after a run that was cut short, so that their last answers are recorded."""
        if any(program.running for program in started.programs):
            await asyncio.to_thread(started.stop)
            await asyncio.sleep(_WATCHED_S)
        for line in clients.problems(started.programs):
            self._wrong(line)

    # --- faults ---

    def fault_names(self) -> list[str]:
        """Return the requested faults that this machine can inject; report the others."""
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

    async def _storm(self, hosts: Hosts, started: Clients, names: Sequence[str]) -> None:
        dice = random.Random(self.seed)
        if self.brief:
            self.say("           the masters keep little: journals are cut, and ids forgotten, within the run")
        begun = time.monotonic()
        left: list[str] = []
        await self._works(started, "commands go through")
        self._diary.now(storm=True)
        while time.monotonic() < begun + self.duration_s:
            if not left:  # each in its turn, in an order of the seed's
                left = dice.sample(names, len(names))
            first = left.pop()
            fault = FAULTS[first](hosts, random.Random(dice.random()))
            other = second(dice, first, names)
            apart_s, chance = dice.uniform(0.2, 2.0), random.Random(dice.random())
            if other is not None:
                fault = OverlappingFaults.of(fault, FAULTS[other](hosts, chance), apart_s)
            name = first if other is None else f"{first}+{other}"
            struck = await self._strike(hosts, name, fault, begun)
            await self._works(started, f"work goes on after {name}: {fault.told}")
            if {first, other} & {"power-off", "wipe", "full-disk", "kill"}:
                await hosts.ready()
            await settle(name, self.seed, fault)
            self._watch.check()
            struck.gap_ms = gap(started.callers[0], begun + struck.at_s, time.monotonic())
            self._note(struck)
            await asyncio.sleep(dice.uniform(*_PAUSE_S))

    async def _works(self, started: Clients, what: str) -> None:
        """Wait until every client gets answers. Raises AssertionError with the names of those that do not."""
        since = time.monotonic()
        try:
            await eventually(lambda: bool(started.ended) or not started.behind(since), what, timeout_s=_GO_ON_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; not for {', '.join(started.behind(since))}") from None
        assert not started.ended, "; ".join(started.ended)

    async def _strike(self, hosts: Hosts, name: str, fault: Fault, begun: float) -> Struck:
        """Inject one fault; the schedule records it before it begins."""
        at = time.monotonic()
        self._diary.now(begins=name, at_s=round(at - begun, 3), lasts_s=round(fault.lasts_s, 3))
        self._expected = True
        try:
            await strike(name, self.seed, fault)
        finally:
            self._expected = False
            self._diary.now(ends=name, told=fault.told)
        return Struck(name, fault.told, round(at - begun, 3), round(time.monotonic() - at, 3))

    def _note(self, struck: Struck) -> None:
        self._diary.write(**asdict(struck))
        self.say(
            f"{struck.at_s:7.1f} s  {struck.name:<10} for {struck.lasted_s:4.1f} s: {struck.told}; "
            f"no command acknowledged for {struck.gap_ms:.0f} ms"
        )

    @contextlib.asynccontextmanager
    async def _kept_running(self, hosts: Hosts) -> AsyncIterator[None]:
        """Restart programs that ended on powered PCs until the block ends, like a service manager.

        It is a finding if masterd or noded ended by itself. etcd may end, if its disk is full.
        """

        async def keep() -> None:
            while True:
                await asyncio.sleep(_RESTART_S)
                for name, pc in hosts.pcs.items():
                    for program in pc.programs() if pc.powered else ():
                        if not pc.alive(program) and (program in pc.running or not self._expected):
                            self.found_ended(program, name, pc.log_tail(program, 1)[:200])
                            pc.start(program)

        task = asyncio.create_task(keep(), name="service manager")
        try:
            yield
        finally:
            task.cancel()
            for found in await asyncio.gather(task, return_exceptions=True):
                if isinstance(found, Exception):
                    self._wrong(f"what starts programs again has ended: {found!r}")

    def found_ended(self, program: str, name: str, said: str) -> None:
        line = f"{program} of {name} had ended: {said}"
        self.say(f"           {line}")
        if program in PROGRAMS and program != "etcd":
            self._wrong(line)

    # --- the end ---

    async def _settle(self, hosts: Hosts, started: Clients) -> None:
        """Undo all faults, wait until the nodes have converged, and save the final content of the store."""
        hosts.lan.heal()
        await hosts.ready()
        for caller in (*started.callers, started.reader):
            await asyncio.to_thread(caller.stop)

        async def settled() -> bool:
            store = await store_checks.read_store(hosts.etcd, hosts.keys)
            return not store_checks.nodes_behind(store)

        with contextlib.suppress(AssertionError):  # the verdict reports nodes that are behind
            await eventually(settled, "nodes", timeout_s=_SETTLE_S)
        head = (await store_checks.read_store(hosts.etcd, hosts.keys)).head.index
        await asyncio.to_thread(started.readers.stop, str(head))
        for line in await self._masters_differ(hosts):
            self._wrong(line)
        await self._watch.caught_up(hosts.etcd)
        await final_store.save_final(hosts.etcd, hosts.keys, self.directory / diary.STORE)

    async def _masters_differ(self, hosts: Hosts) -> list[str]:
        """Check that all masters get the same documents in memory."""

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


def gap(caller: Caller, since: float, until: float) -> float:
    """Return the longest time without an acknowledged command between `since` and `until`, in milliseconds."""
    times = [at for at in caller.acknowledged(since - 1.0) if at <= until]
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0) * 1e3
