"""Faults of the network: an unplugged cable, and packets lost between some hosts."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.faults.hosts.kinds.fault import Fault
from tests.faults.hosts.lan import probe


@dataclass
class LinkCut(Fault):
    """A cable is unplugged for a while; all programs on that PC go on."""

    victim: str = ""

    async def begin(self) -> None:
        self.victim = self.told = await self.somebody()
        self.hosts.lan.unplug(self.victim)
        await self.only_cut(pair for pair in probe.pairs(list(self.hosts.pcs)) if self.victim in pair)

    async def end(self) -> None:
        self.hosts.lan.plug(self.victim)


@dataclass
class Cuts(Fault):
    """Packets between some hosts are lost. A subclass defines the pairs."""

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
    """A host receives from the others but cannot send to them, or the reverse."""

    async def pairs(self) -> list[tuple[str, str]]:
        victim, deaf = await self.somebody(), self.dice.random() < 0.5
        self.told = f"{victim} {'hears' if deaf else 'is heard by'} no other"
        others = [name for name in self.hosts.pcs if name != victim]
        return [(other, victim) if deaf else (victim, other) for other in others]


class Halves(Cuts):
    """Two groups of hosts that cannot reach each other. The operator's PC reaches all."""

    async def pairs(self) -> list[tuple[str, str]]:
        names = list(self.hosts.pcs)
        self.dice.shuffle(names)
        size = self.dice.randint(1, len(names) // 2)
        few, many = names[:size], names[size:]
        self.told = f"{' '.join(sorted(few))} | {' '.join(sorted(many))}"
        return [pair for one in few for other in many for pair in ((one, other), (other, one))]


class Ring(Cuts):
    """Each host reaches only its two neighbours in a ring."""

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
