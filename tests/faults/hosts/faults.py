"""The faults of hosts, by name. Each is an object that is made from dice, begins, lasts, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nodestore.errors import NodectlError
from tests.faults.hosts import clocks, slow_disk
from tests.faults.hosts.disks import Fsyncs
from tests.faults.hosts.pc import PEER, PROGRAMS, Program
from tests.faults.hosts.site import Hosts
from tests.waiting import eventually

_FILLER = "filler"
_CONTROL_S = 20.0
_MEMBER_S = 40.0


@dataclass
class Fault:
    """`lasts_s` from its beginning to its end. `told`: what it did, for the schedule."""

    hosts: Hosts
    dice: random.Random
    lasts_s: float = 3.0
    told: str = ""

    async def begin(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        """Nothing of it is left; the PCs may need a while until they are in order again."""

    async def somebody(self) -> str:
        """The host it falls on: that of the leader in half of the cases, of etcd's leader in a quarter, or any."""
        kind = self.dice.random()
        any_host = self.dice.choice([name for name, pc in self.hosts.pcs.items() if pc.powered])
        found = await self.hosts.leading() if kind < 0.5 else await self.hosts.etcd_leading() if kind < 0.75 else None
        return found or any_host


@dataclass
class PowerOff(Fault):
    """A PC loses its power, and gets it back."""

    victim: str = ""

    async def begin(self) -> None:
        self.victim = await self.somebody()
        at = self.hosts.pcs[self.victim].power_off()
        self.told = self.victim
        goodbyes = self.hosts.capture.of(self.hosts.pcs[self.victim].address, at)
        assert not goodbyes, f"{self.victim} was to lose its power, and said goodbye: {goodbyes[:3]}"

    async def end(self) -> None:
        self.hosts.pcs[self.victim].power_on()


@dataclass
class LinkCut(Fault):
    """A cable is out for a while; all programs on that PC go on."""

    victim: str = ""

    async def begin(self) -> None:
        self.victim = self.told = await self.somebody()
        self.hosts.lan.unplug(self.victim)

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
        self.programs = PROGRAMS if self.dice.random() < 0.5 else (self.dice.choice(pc.programs()),)
        self.told = f"{' '.join(self.programs)} of {self.victim}"
        pc.pause(*self.programs)

    async def end(self) -> None:
        self.hosts.pcs[self.victim].resume(*self.programs)


@dataclass
class Kill(Fault):
    """kill -9 of one program, which is started again."""

    victim: str = ""
    program: Program = "masterd"

    async def begin(self) -> None:
        self.victim = await self.somebody()
        self.program = self.dice.choice(self.hosts.pcs[self.victim].programs())
        self.told = f"{self.program} of {self.victim}"
        self.hosts.pcs[self.victim].kill(self.program)

    async def end(self) -> None:
        self.hosts.pcs[self.victim].start(self.program)


@dataclass
class FullDisk(Fault):
    """No room is left on the disk of an etcd member, then there is some again."""

    victim: str = ""

    async def begin(self) -> None:
        self.victim = self.told = self.dice.choice(self.hosts.site.members)
        await asyncio.to_thread(fill, self._filler)

    async def end(self) -> None:
        self._filler.unlink(missing_ok=True)

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
    """Until the disk is full: it must be a small one."""
    with contextlib.suppress(OSError) as _, path.open("wb", buffering=0) as file:
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
        pc.power_off()
        pc.wipe()

    async def end(self) -> None:
        pc = self.hosts.pcs[self.victim]
        if pc.has_member:
            await eventually(self._replaced, f"the member of {self.victim} is replaced", timeout_s=_MEMBER_S)
            pc.fresh_member = False
        pc.power_on()

    async def _replaced(self) -> bool:
        """Remove the old member and add a new one, as an operator does: docs/operations.md."""
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
    """The clocks of our programs on one host go wrong: a step of an hour, or a rate of a half or of two."""

    victim: str = ""
    kind: str = ""

    async def begin(self) -> None:
        self.victim = await self.somebody()
        self.kind = self.dice.choice(sorted(CLOCKS))
        self.told = f"{self.victim}: {CLOCKS[self.kind]}"
        self._restart(self.hosts.clocks.wrapped(self.victim, CLOCKS[self.kind]))

    async def end(self) -> None:
        self.hosts.clocks.check(self.victim, CLOCKS[self.kind])
        self._restart({})

    def _restart(self, wrapped: Mapping[str, list[str]]) -> None:
        pc = self.hosts.pcs[self.victim]
        pc.wrapped = wrapped
        for program in ("masterd", "noded"):
            pc.kill(program)
            pc.start(program)


CLOCKS = {"ahead": "+3600s", "behind": "-3600s", "slow": "+0 x0.5", "fast": "+0 x2"}

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
