"""The faults of hosts, by name. Each is an object that is made from dice, begins, lasts, and ends.

Each proves that it has done something: AssertionError says that it has not, and no run with one that has not is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from nodestore.errors import NodectlError
from tests.faults.hosts import clocks, probe, slow_disk
from tests.faults.hosts.clocks import CLOCKS, RIGHT, Measured, WrongClocks, kind_of
from tests.faults.hosts.disks import Fsyncs
from tests.faults.hosts.pc import PEER, Pc, Program
from tests.faults.hosts.site import Hosts
from tests.waiting import eventually

_FILLER = "filler"
_CONTROL_S = 20.0
_MEMBER_S = 40.0
_RUNS_S = 30.0
_STOPPED_S = 10.0
_NOTICED_S = 60.0
_CLOCK_S = 20.0
_ROOM_BYTES = 1 << 20
_NO_ROOM = b"no space left on device"


class FaultFailed(AssertionError):
    """A fault did not do what it should, or could not be undone; which one, of which run."""


@dataclass
class Fault:
    """`lasts_s` from its beginning to its end. `told`: what it did, for the schedule."""

    hosts: Hosts
    dice: random.Random
    lasts_s: float = 3.0
    told: str = ""
    avoid: frozenset[str] = frozenset()
    """Hosts that another fault has struck, and that is not over."""

    async def begin(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        """Nothing of it is left; the PCs may need a while until they are in order again."""

    async def settled(self) -> None:
        """Work goes on, and all is in order again: what can be proven only then."""

    async def runs(self, pc: Pc, *programs: Program) -> None:
        """Until they run: what has ended is started again a moment later."""
        await eventually(
            lambda: all(pc.alive(program) for program in programs),
            f"{' '.join(programs)} of {pc.name} run",
            timeout_s=_RUNS_S,
        )

    async def only_cut(self, cut: Iterable[probe.Pair]) -> None:
        """AssertionError unless exactly these hear nothing of each other."""
        await asyncio.to_thread(probe.check, list(self.hosts.pcs), set(cut))

    async def cut_power(self, pc: Pc) -> None:
        """AssertionError when it said goodbye to anybody."""
        self.hosts.capture.look()
        pc.power_off()
        assert pc.cut_at is not None
        goodbyes = self.hosts.capture.of(pc.address, pc.cut_at)
        assert not goodbyes, f"{pc.name} was to lose its power, and said goodbye: {goodbyes[:3]}"

    def stays_silent(self, pc: Pc) -> None:
        """AssertionError when what it had not sent when it lost its power has left it since."""
        late = self.hosts.capture.leftovers(pc.address, pc.plugged_at)
        assert not late, f"{pc.name} had lost its power, and said goodbye when it was back: {late[:3]}"

    async def somebody(self) -> str:
        """The host it falls on: that of the leader in half of the cases, of etcd's leader in a quarter, or any."""
        kind = self.dice.random()
        powered = [name for name, pc in self.hosts.pcs.items() if pc.powered and name not in self.avoid]
        any_host = self.dice.choice(powered)
        found = await self.hosts.leading() if kind < 0.5 else await self.hosts.etcd_leading() if kind < 0.75 else None
        return any_host if found is None or found in self.avoid else found


@dataclass
class PowerOff(Fault):
    """A PC loses its power, and gets it back."""

    victim: str = ""

    async def begin(self) -> None:
        self.victim = self.told = await self.somebody()
        await self.cut_power(self.hosts.pcs[self.victim])

    async def end(self) -> None:
        self.hosts.pcs[self.victim].power_on()

    async def settled(self) -> None:
        self.stays_silent(self.hosts.pcs[self.victim])


@dataclass
class LinkCut(Fault):
    """A cable is out for a while; all programs on that PC go on."""

    victim: str = ""

    async def begin(self) -> None:
        self.victim = self.told = await self.somebody()
        self.hosts.lan.unplug(self.victim)
        await self.only_cut(pair for pair in probe.pairs(list(self.hosts.pcs)) if self.victim in pair)

    async def end(self) -> None:
        self.hosts.lan.plug(self.victim)


@dataclass
class Cuts(Fault):
    """Packets between some hosts are lost. A subclass says between which."""

    made: list[tuple[str, str]] = field(default_factory=list)

    async def pairs(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    async def begin(self) -> None:
        for source, target in await self.pairs():
            self.hosts.lan.cut(source, target)
            self.made.append((source, target))
        await self.only_cut(self.made)

    async def end(self) -> None:
        for source, target in self.made:
            self.hosts.lan.join(source, target)


class OneWay(Cuts):
    """A host hears the others and is not heard by them, or the other way round."""

    async def pairs(self) -> list[tuple[str, str]]:
        victim, deaf = await self.somebody(), self.dice.random() < 0.5
        self.told = f"{victim} {'hears' if deaf else 'is heard by'} no other"
        others = [name for name in self.hosts.pcs if name != victim]
        return [(other, victim) if deaf else (victim, other) for other in others]


class Halves(Cuts):
    """Two groups of hosts that do not see each other. The operator sees all."""

    async def pairs(self) -> list[tuple[str, str]]:
        names = list(self.hosts.pcs)
        self.dice.shuffle(names)
        size = self.dice.randint(1, len(names) // 2)
        few, many = names[:size], names[size:]
        self.told = f"{' '.join(sorted(few))} | {' '.join(sorted(many))}"
        return [pair for one in few for other in many for pair in ((one, other), (other, one))]


class Ring(Cuts):
    """Each host sees only its two neighbours."""

    async def pairs(self) -> list[tuple[str, str]]:
        names = list(self.hosts.pcs)
        self.dice.shuffle(names)
        self.told = " - ".join(names)
        size = len(names)
        return [
            (one, other)
            for place, one in enumerate(names)
            for step, other in enumerate(names)
            if (place - step) % size not in (0, 1, size - 1)
        ]


@dataclass
class Pause(Fault):
    """SIGSTOP of everything on a host, or of one program; then SIGCONT."""

    victim: str = ""
    programs: tuple[Program, ...] = ()

    async def begin(self) -> None:
        self.victim = await self.somebody()
        pc = self.hosts.pcs[self.victim]
        self.programs = pc.programs() if self.dice.random() < 0.5 else (self.dice.choice(pc.programs()),)
        self.told = f"{' '.join(self.programs)} of {self.victim}"
        await self.runs(pc, *self.programs)
        await eventually(self._stopped, f"{self.told} are stopped", timeout_s=_STOPPED_S)

    def _stopped(self) -> bool:
        """Every process of every program; what one has started meanwhile is stopped too."""
        pc = self.hosts.pcs[self.victim]
        pc.pause(*self.programs)
        return all(all_stopped(pc.states(program)) for program in self.programs)

    async def end(self) -> None:
        pc = self.hosts.pcs[self.victim]
        still = all(all_stopped(pc.states(program)) for program in self.programs)
        pc.resume(*self.programs)
        assert still, f"{self.told} were to be stopped until now, and were not"


@dataclass
class Kill(Fault):
    """kill -9 of one program, which is started again."""

    victim: str = ""
    program: Program = "masterd"

    async def begin(self) -> None:
        self.victim = await self.somebody()
        self.program = self.dice.choice(self.hosts.pcs[self.victim].programs())
        self.told = f"{self.program} of {self.victim}"
        pc = self.hosts.pcs[self.victim]
        await self.runs(pc, self.program)
        doomed = pc.processes(self.program)
        assert doomed, f"{self.told} was to be killed, and did not run"
        pc.kill(self.program)
        await eventually(
            lambda: not any(alive(process) for process in doomed), f"{self.told} is dead", timeout_s=_STOPPED_S
        )

    async def end(self) -> None:
        self.hosts.pcs[self.victim].start(self.program)


@dataclass
class FullDisk(Fault):
    """No room is left on the disk of an etcd member, then there is some again."""

    victim: str = ""
    member: int | None = None
    """Its process, before."""
    said: int = 0
    """How long its log was then."""

    async def begin(self) -> None:
        self.victim = self.told = self.dice.choice(self.hosts.site.members)
        pc = self.hosts.pcs[self.victim]
        await self.runs(pc, "etcd")
        self.member, self.said = pc.pid("etcd"), pc.log("etcd").stat().st_size
        await eventually(self._noticed, f"etcd of {self.victim} has noticed its full disk", timeout_s=_NOTICED_S)

    async def _noticed(self) -> bool:
        """It has ended, or says so. What room it has made itself since is taken again."""
        await asyncio.to_thread(fill, self._filler)
        pc = self.hosts.pcs[self.victim]
        with pc.log("etcd").open("rb") as log:
            log.seek(self.said)
            why = "said so" if _NO_ROOM in log.read() else "ended" if not self._lives(pc) else ""
        if why:
            self.told = f"{self.victim}, whose etcd {why}"
        return bool(why)

    def _lives(self, pc: Pc) -> bool:
        return pc.alive("etcd") and pc.pid("etcd") == self.member

    async def end(self) -> None:
        if self.victim:
            self._filler.unlink(missing_ok=True)
            room = self.hosts.pcs[self.victim].room_bytes()
            assert room >= _ROOM_BYTES, f"the disk of {self.victim} was to have room again, and has {room} bytes"

    @property
    def _filler(self) -> Path:
        slow = self.hosts.disks.get(self.victim)  # to fill it through its file system would take seconds
        place = self.hosts.pcs[self.victim].disk / "etcd" if slow is None else slow.under
        return place / _FILLER


@dataclass
class SlowDisk(Fault):
    """The disk of an etcd member takes long until it says that something is on it: each fsync for another while."""

    victim: str = ""
    kind: str = ""
    before: Fsyncs | None = None

    async def begin(self) -> None:
        members = self.hosts.site.members
        leading = await self.hosts.etcd_leading() if self.dice.random() < 0.5 else None
        self.victim = leading or self.dice.choice(members)
        self.kind = self.dice.choice(sorted(SLOW_MS))
        sync_ms, write_ms = SLOW_MS[self.kind]
        self.told = f"{self.victim}, {self.kind}: an fsync takes {sync_ms[0]:g} to {sync_ms[1]:g} ms"
        self.hosts.disks[self.victim].slow(sync_ms, write_ms)
        self.before = await self.hosts.fsyncs(self.victim)

    async def end(self) -> None:
        try:
            if self.before is not None:
                self._check((await self.hosts.fsyncs(self.victim)).since(self.before))
        finally:
            if self.victim:
                self.hosts.disks[self.victim].as_fast_as_it_is()

    def _check(self, seen: Fsyncs) -> None:
        """AssertionError unless etcd itself has measured that the disk was as slow as it should be."""
        self.told += f"; {seen.count} of its WAL, {seen.mean_ms:.0f} ms each by its own measure"
        low_ms = SLOW_MS[self.kind][0][0]
        assert seen.count > 0, f"etcd of {self.victim} wrote nothing while its disk was to be slow"
        assert seen.mean_ms >= low_ms, f"the disk was to be slow, and was not: {self.told}"


SLOW_MS = {
    "worn": ((20.0, 80.0), (0.0, 1.0)),
    "slow": ((20.0, 400.0), (0.0, 5.0)),
    "dying": ((200.0, 900.0), (0.0, 20.0)),
}
"""How long an fsync takes longer, and a write."""


def fill(path: Path) -> None:
    """Until the disk is full: it must be a small one. What is in the file already stays. OSError when anything but
    room is missing."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@dataclass
class Wipe(Fault):
    """A PC is replaced: it loses its power, and comes back with an empty disk."""

    victim: str = ""

    async def begin(self) -> None:
        self.victim = self.told = await self.somebody()
        pc = self.hosts.pcs[self.victim]
        await self.cut_power(pc)
        pc.wipe()

    async def settled(self) -> None:
        self.stays_silent(self.hosts.pcs[self.victim])

    async def end(self) -> None:
        pc = self.hosts.pcs[self.victim]
        if pc.has_member:
            await eventually(self._replaced, f"the member of {self.victim} is replaced", timeout_s=_MEMBER_S)
            pc.fresh_member = False
        pc.power_on()

    async def _replaced(self) -> bool:
        """Remove the old member and add a new one, as an operator does: etcd/README.md."""
        try:
            members = await self.hosts.etcd.members()
            peer = f"http://{self.hosts.pcs[self.victim].address}:{PEER}"
            old = next((member for member in members if peer in member.peer_urls), None)
            if old is not None and not old.name:
                return True  # added, and never started
            if old is not None:
                await self._control("member", "remove", f"{old.id:x}")
            await self._control("member", "add", self.victim, f"--peer-urls={peer}")
        except (NodectlError, subprocess.SubprocessError):
            return False
        return True

    async def _control(self, *arguments: str) -> None:
        alive = [place for place in self.hosts.site.endpoints() if self.hosts.pcs[self.victim].address not in place]
        program = self.hosts.site.etcd.with_name("etcdctl")
        argv = [str(program), f"--endpoints={','.join(alive)}", "--command-timeout=3s", *arguments]
        await asyncio.to_thread(lambda: subprocess.run(argv, check=True, capture_output=True, timeout=_CONTROL_S))


@dataclass
class Clock(Fault):
    """The clocks of our programs on one host go wrong while these run: a step of an hour, or a rate of a half or of
    two. In half of the cases it is the leader's host; a leader whose clock runs slow may be deposed for that."""

    victim: str = ""
    how: str = ""
    before: Mapping[str, Measured] = field(default_factory=dict)

    async def begin(self) -> None:
        wrong, self.how = self._clocks(), CLOCKS[self.dice.choice(sorted(CLOCKS))]
        able = wrong.of_kind(self.how)
        leads, chosen = self.dice.random() < 0.5, self.dice.choice(able)
        leading = await self.hosts.leading()
        if leads:
            self.victim = leading if leading in able else chosen
            await self.hosts.lead(self.victim)
        else:
            others = [name for name in able if name != leading]
            self.victim = chosen if chosen in others else self.dice.choice(others)
        self.told = f"{self.victim}: {self.how}"
        await self.runs(self.hosts.pcs[self.victim], "masterd", "noded")
        await eventually(self._fresh, f"{self.victim} measures its clocks", timeout_s=_CLOCK_S)
        wrong.set(self.victim, self.how)
        await measured(wrong, self.victim, self.before, self.how)
        if leads:
            await self._goes_on_leading()

    async def _goes_on_leading(self) -> None:
        """With the wrong clock. A step must not depose it; if something else just did, it leads again."""
        deposed = await self.hosts.leading() != self.victim
        if deposed and self.how != CLOCKS["slow"]:
            await self.hosts.lead(self.victim)
        self.told += ", the leader" if not deposed else ", the leader until then"

    def _fresh(self) -> bool:
        """Both programs that run now have measured their clocks."""
        self.before = self._clocks().last(self.victim)
        pc = self.hosts.pcs[self.victim]
        runs = {process.pid for program in clocks.PROGRAMS for process in pc.processes(program)}
        return len(self.before) == len(clocks.PROGRAMS) and all(found.pid in runs for found in self.before.values())

    async def end(self) -> None:
        wrong = self._clocks()
        if not self.before:
            return
        why = wrong.wrong(self.victim, self.before, self.how)
        wrong.mend(self.victim)
        assert not why, "; ".join(why)
        if await self.hosts.leading() == self.victim:
            self.told += ", which led at the end"
        await measured(wrong, self.victim, self.before, RIGHT[kind_of(self.how)])

    def _clocks(self) -> WrongClocks:
        assert self.hosts.clocks is not None, "the programs of this run have the kernel's clocks"
        return self.hosts.clocks


async def measured(wrong: WrongClocks, host: str, before: Mapping[str, Measured], how: str) -> None:
    """Until both programs have measured that. AssertionError with what they have measured instead."""
    why: list[str] = []

    def shown() -> bool:
        why[:] = wrong.wrong(host, before, how)
        return not why

    try:
        await eventually(shown, timeout_s=_CLOCK_S)
    except AssertionError:
        raise AssertionError("; ".join(why)) from None


def all_stopped(states: Mapping[int, str]) -> bool:
    """There are some, and all are stopped."""
    return bool(states) and all(state == psutil.STATUS_STOPPED for state in states.values())


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def strike(name: str, seed: int, fault: Fault) -> None:
    """All of it, and that nothing of it is left. FaultFailed with what it did not do."""
    try:
        try:
            await fault.begin()
            await asyncio.sleep(fault.lasts_s)
        except BaseException:
            with contextlib.suppress(Exception):  # the first says more than what comes of it
                await fault.end()
            raise
        await fault.end()
        await undone(fault.hosts)
    except AssertionError as error:
        raise _failed(name, seed, fault, error) from error


async def settle(name: str, seed: int, fault: Fault) -> None:
    """What can be proven only when work goes on again. FaultFailed like `strike`."""
    try:
        fault.hosts.capture.look()
        await fault.settled()
    except AssertionError as error:
        raise _failed(name, seed, fault, error) from error


def _failed(name: str, seed: int, fault: Fault, error: AssertionError) -> FaultFailed:
    return FaultFailed(f"fault {name} ({fault.told or 'before it began'}; seed {seed}): {error}")


async def undone(hosts: Hosts) -> None:
    """AssertionError when anything is still cut or stopped, after whichever fault."""
    await asyncio.to_thread(probe.check, list(hosts.pcs), ())
    stopped = [
        f"process {pid} of {name}"
        for name, pc in hosts.pcs.items()
        for pid, state in pc.states().items()
        if state == psutil.STATUS_STOPPED
    ]
    assert not stopped, f"still stopped: {', '.join(stopped)}"


UNABLE: Mapping[str, Callable[[], str | None]] = {"clock": clocks.missing, "slow-disk": slow_disk.missing}
"""What tells why a fault cannot be done on this machine; None: it can. The others can wherever hosts can."""

Make = Callable[[Hosts, random.Random], Fault]
FAULTS: Mapping[str, Make] = {
    "power-off": lambda hosts, dice: PowerOff(hosts, dice, dice.uniform(2.0, 8.0)),
    "link-cut": lambda hosts, dice: LinkCut(hosts, dice, dice.uniform(0.3, 8.0)),
    "one-way": lambda hosts, dice: OneWay(hosts, dice, dice.uniform(1.0, 8.0)),
    "halves": lambda hosts, dice: Halves(hosts, dice, dice.uniform(1.0, 8.0)),
    "ring": lambda hosts, dice: Ring(hosts, dice, dice.uniform(2.0, 8.0)),
    "pause": lambda hosts, dice: Pause(hosts, dice, dice.uniform(0.2, 6.0)),
    "kill": lambda hosts, dice: Kill(hosts, dice, dice.uniform(0.0, 2.0)),
    "full-disk": lambda hosts, dice: FullDisk(hosts, dice, dice.uniform(2.0, 8.0)),
    "slow-disk": lambda hosts, dice: SlowDisk(hosts, dice, dice.uniform(4.0, 10.0)),
    "wipe": lambda hosts, dice: Wipe(hosts, dice, dice.uniform(1.0, 3.0)),
    "clock": lambda hosts, dice: Clock(hosts, dice, dice.uniform(6.0, 10.0)),
}
