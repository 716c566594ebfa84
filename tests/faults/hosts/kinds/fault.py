"""What every fault of hosts is, and how one is done: it begins, lasts, ends, and nothing of it is left.

Each proves that it has done something: AssertionError says that it has not, and no run with one that has not is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from tests.faults.hosts.lan import probe
from tests.faults.hosts.lan.pc import Pc, Program
from tests.faults.hosts.lan.site import Hosts
from tests.support.waiting import eventually

_RUNS_S = 30.0


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
        self.hosts.capture.drain()
        pc.power_off()
        assert pc.cut_at is not None
        goodbyes = self.hosts.capture.ends_of(pc.address, pc.cut_at)
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
        fault.hosts.capture.drain()
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
