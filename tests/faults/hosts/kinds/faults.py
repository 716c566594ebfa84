"""The table of all faults by name, and the faults of a PC and of its programs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from nodestore.errors import NodectlError
from nodestore.etcd.pb import etcd_pb2 as pb
from tests.faults.hosts.kinds.clock_fault import Clock
from tests.faults.hosts.kinds.cuts import Halves, LinkCut, OneWay, Ring
from tests.faults.hosts.kinds.disk_faults import FullDisk, SlowDisk
from tests.faults.hosts.kinds.fault import Fault
from tests.faults.hosts.lan import clocks, slow_disk
from tests.faults.hosts.lan.pc import PEER, Program
from tests.faults.hosts.lan.site import Hosts
from tests.support.waiting import eventually

_CONTROL_S = 20.0
_LISTED_S = 3.0
_MEMBER_S = 40.0
_STOPPED_S = 10.0


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
        await eventually(self.stopped, f"{self.told} are stopped", timeout_s=_STOPPED_S)

    def stopped(self) -> bool:
        """Stop every process of the programs, also new children; return whether all are stopped."""
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
        others = [place for place in self.hosts.site.endpoints() if self.hosts.pcs[self.victim].address not in place]
        try:
            listed = [await self._listed_at(place) for place in others]
            if all(found is not None and not found.name for found in listed):
                return True  # added, never started, and every member knows it
            if (old := listed[0]) is not None and old.name:
                await self._control(others, "member", "remove", f"{old.ID:x}")
            await self._control(others, "member", "add", self.victim, f"--peer-urls={self._peer}")
        except (NodectlError, subprocess.SubprocessError):
            pass
        return False

    @property
    def _peer(self) -> str:
        return f"http://{self.hosts.pcs[self.victim].address}:{PEER}"

    async def _listed_at(self, place: str) -> pb.Member | None:
        """Return the replaced member as the member at `place` lists it, by a linearizable request."""
        # A member that is behind would give the new one the ID of the removed one, which it would then keep.
        request = pb.MemberListRequest(linearizable=True)
        answer = await self.hosts.etcd.call_member(place, "Cluster/MemberList", request, _LISTED_S)
        return next((member for member in answer.members if self._peer in member.peerURLs), None)

    async def _control(self, endpoints: Sequence[str], *arguments: str) -> None:
        program = self.hosts.site.etcd.with_name("etcdctl")
        argv = [str(program), f"--endpoints={','.join(endpoints)}", "--command-timeout=3s", *arguments]
        await asyncio.to_thread(lambda: subprocess.run(argv, check=True, capture_output=True, timeout=_CONTROL_S))


def all_stopped(states: Mapping[int, str]) -> bool:
    """Return whether there are processes, and all of them are stopped."""
    return bool(states) and all(state == psutil.STATUS_STOPPED for state in states.values())


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


UNABLE: Mapping[str, Callable[[], str | None]] = {"clock": clocks.missing, "slow-disk": slow_disk.missing}
"""Functions that return why a fault is impossible on this machine, or None. The other faults are always possible."""

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
