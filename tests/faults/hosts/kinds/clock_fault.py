"""The fault of wrong clocks. `clocks` explains how clocks are made wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.faults.hosts.kinds.fault import Fault
from tests.faults.hosts.lan import clocks
from tests.faults.hosts.lan.clocks import CLOCKS, RIGHT, Measured, WrongClocks, kind_of
from tests.support.waiting import eventually

_CLOCK_S = 20.0


@dataclass
class Clock(Fault):
    """The clocks of masterd and noded on one host become wrong: a step of one hour, or a rate of 0.5 or 2.

    In half of the cases it is the leader's host. A leader whose clock runs slow may be deposed because of it.
    """

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
        """Make the leader go on with a wrong clock: a step must not depose it; if it was deposed, it leads again."""
        deposed = await self.hosts.leading() != self.victim
        if deposed and self.how != CLOCKS["slow"]:
            await self.hosts.lead(self.victim)
        self.told += ", the leader" if not deposed else ", the leader until then"

    def _fresh(self) -> bool:
        """Return whether both running programs have measured their clocks."""
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
    """Wait until both programs have measured clock `how`. Raises AssertionError with their measurements."""
    why: list[str] = []

    def shown() -> bool:
        why[:] = wrong.wrong(host, before, how)
        return not why

    try:
        await eventually(shown, timeout_s=_CLOCK_S)
    except AssertionError:
        raise AssertionError("; ".join(why)) from None
