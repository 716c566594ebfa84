"""Two overlapping faults: the second begins while the first lasts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.hosts.kinds.fault import Fault

_TWO_AT_ONCE = 1 / 3
CUTS = ("link-cut", "one-way", "halves", "ring")
PROCESSES = ("pause", "kill")
OVERLAP = {
    "link-cut": PROCESSES, "one-way": PROCESSES, "halves": PROCESSES, "ring": PROCESSES,
    "pause": CUTS, "kill": CUTS, "clock": CUTS,
    "power-off": ("kill",), "full-disk": PROCESSES, "wipe": ("kill",),
}  # fmt: skip
"""The faults that may begin while another one lasts. Two faults that cut the network exclude each other, because each
checks that nothing else is cut; so do cuts and PCs without power. Nothing overlaps with a slow disk, which is checked
by what etcd writes. While two faults last, a majority of the members may be down: nothing is expected until both end,
and everything afterwards."""


def second(dice: random.Random, first: str, names: Sequence[str]) -> str | None:
    """Choose, in a third of the cases, another fault of this run that begins while `first` lasts."""
    wanted, choice = dice.random() < _TWO_AT_ONCE, dice.random()
    fit = [name for name in OVERLAP.get(first, ()) if name in names]
    return fit[int(choice * len(fit))] if wanted and fit else None


@dataclass
class OverlappingFaults(Fault):
    """Two faults that last until both have had their time.

    The second ends first, because the end of the first may need a majority of the members (a wiped PC's member is
    replaced). The second avoids the host of the first.
    """

    parts: list[Fault] = field(default_factory=list)
    apart_s: float = 1.0
    begun: list[Fault] = field(default_factory=list)

    @classmethod
    def of(cls, first: Fault, other: Fault, apart_s: float) -> OverlappingFaults:
        lasts_s = max(first.lasts_s - apart_s, other.lasts_s)
        return cls(first.hosts, first.dice, lasts_s, parts=[first, other], apart_s=apart_s)

    async def begin(self) -> None:
        for part in self.parts:
            if self.begun:
                await asyncio.sleep(self.apart_s)
                part.avoid = frozenset(getattr(one, "victim", "") for one in self.begun)
            self.begun.append(part)
            await part.begin()
            self._tell()

    async def end(self) -> None:
        """End each fault, even if another one fails to; then raise the first error."""
        reasons = []
        for part in reversed(self.begun):
            try:
                await part.end()
            except Exception as error:  # noqa: BLE001 - raised below, once nothing of the others is left
                reasons.append(error)
        self._tell()
        if reasons:
            raise reasons[0]

    async def settled(self) -> None:
        for part in self.begun:
            await part.settled()

    def _tell(self) -> None:
        self.told = " and ".join(part.told for part in self.begun if part.told)
