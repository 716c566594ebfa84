"""The base class of the faults, and their procedure: begin, wait, end, and check that nothing of it remains.

Each fault proves that it had an effect. If it had none, it raises AssertionError, and the run fails.
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
    """A fault had no effect or could not be undone. The message names the fault and the seed of the run."""


@dataclass
class Fault:
    """One fault. `lasts_s`: seconds from begin to end. `told`: its description for the schedule."""

    hosts: Hosts
    dice: random.Random
    lasts_s: float = 3.0
    told: str = ""
    avoid: frozenset[str] = frozenset()
    """Hosts of another fault that still lasts."""

    async def begin(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        """Undo the fault. The PCs may need some time afterwards until they work again."""

    async def settled(self) -> None:
        """Check what can be checked only after the cluster works again."""

    async def runs(self, pc: Pc, *programs: Program) -> None:
        """Wait until the programs run; ended programs are restarted after a moment."""
        await eventually(
            lambda: all(pc.alive(program) for program in programs),
            f"{' '.join(programs)} of {pc.name} run",
            timeout_s=_RUNS_S,
        )

    async def only_cut(self, cut: Iterable[probe.Pair]) -> None:
        """Raise AssertionError unless exactly these pairs of hosts are cut."""
        await asyncio.to_thread(probe.check, list(self.hosts.pcs), set(cut))

    async def cut_power(self, pc: Pc) -> None:
        """Cut the power of a PC. Raises AssertionError if it sent a FIN or RST afterwards."""
        self.hosts.capture.drain()
        pc.power_off()
        assert pc.cut_at is not None
        goodbyes = self.hosts.capture.ends_of(pc.address, pc.cut_at)
        assert not goodbyes, f"{pc.name} was to lose its power, and said goodbye: {goodbyes[:3]}"

    def stays_silent(self, pc: Pc) -> None:
        """Raise AssertionError if data that was unsent when the PC lost its power was sent later."""
        late = self.hosts.capture.leftovers(pc.address, pc.plugged_at)
        assert not late, f"{pc.name} had lost its power, and said goodbye when it was back: {late[:3]}"

    async def somebody(self) -> str:
        """Choose the host of the fault: the leader's in half of the cases, etcd's leader's in a quarter, else any."""
        kind = self.dice.random()
        powered = [name for name, pc in self.hosts.pcs.items() if pc.powered and name not in self.avoid]
        any_host = self.dice.choice(powered)
        found = await self.hosts.leading() if kind < 0.5 else await self.hosts.etcd_leading() if kind < 0.75 else None
        return any_host if found is None or found in self.avoid else found


async def strike(name: str, seed: int, fault: Fault) -> None:
    """Inject a fault, wait, undo it, and check that nothing remains. Raises FaultFailed."""
    try:
        try:
            await fault.begin()
            await asyncio.sleep(fault.lasts_s)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error explains more than its consequences
                await fault.end()
            raise
        await fault.end()
        await undone(fault.hosts)
    except AssertionError as error:
        raise _failed(name, seed, fault, error) from error


async def settle(name: str, seed: int, fault: Fault) -> None:
    """Run the checks of a fault that need a working cluster. Raises FaultFailed."""
    try:
        fault.hosts.capture.drain()
        await fault.settled()
    except AssertionError as error:
        raise _failed(name, seed, fault, error) from error


def _failed(name: str, seed: int, fault: Fault, error: AssertionError) -> FaultFailed:
    return FaultFailed(f"fault {name} ({fault.told or 'before it began'}; seed {seed}): {error}")


async def undone(hosts: Hosts) -> None:
    """Raise AssertionError if any connection is still cut or any process still stopped."""
    await asyncio.to_thread(probe.check, list(hosts.pcs), ())
    stopped = [
        f"process {pid} of {name}"
        for name, pc in hosts.pcs.items()
        for pid, state in pc.states().items()
        if state == psutil.STATUS_STOPPED
    ]
    assert not stopped, f"still stopped: {', '.join(stopped)}"
