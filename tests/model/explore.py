"""Breadth-first search over a model: all worlds within its bounds, and the shortest way to one that is broken."""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.model import steps
from tests.model.setting import Setting
from tests.model.world import Bounds, Takeover, Txn, World, beginning

_KEEP_COPIES_ALIVE = {
    "takeover compares leader", "commit compares leader", "resignation compares leader", "housekeeping compares leader",
    "recovery deletes leader", "an answer compares leader",
}  # fmt: skip
"""Without one of these rules, a copy whose compare of `leader` fails may land all the same, or later."""


@dataclass(frozen=True)
class Explored:
    """What a search came to. `worlds`: how many different ones; `steps`: how many ways between them; `depth`: of the
    longest of the shortest ways. trace: how to break it, in words; empty when nothing does. `cut`: it was given up."""

    worlds: int
    steps: int
    depth: int
    trace: tuple[str, ...] = ()
    cut: bool = False

    def __str__(self) -> str:
        size = f"{self.worlds} worlds, {self.steps} steps, depth {self.depth}"
        if not self.trace:
            return f"nothing is broken in {size}{' (given up)' if self.cut else ''}"
        lines = [f"{number:3}. {line}" for number, line in enumerate(self.trace[:-1], start=1)]
        return "\n".join([f"broken after {size}:", *lines, f"     {self.trace[-1].upper()}"])


def explore(bounds: Bounds, without: str | frozenset[str] = frozenset(), worlds_max: int = 2_000_000) -> Explored:
    """Search until something is broken or everything was seen. `without`: rules that are taken out."""
    setting = Setting(bounds, frozenset({without}) if isinstance(without, str) else without)
    prunes = not setting.without & _KEEP_COPIES_ALIVE
    start = beginning(bounds)
    came: dict[World, tuple[World | None, str, int, bool]] = {start: (None, "", 0, False)}
    layer, taken, depth = [start], 0, 0
    while layer:
        reached: list[World] = []
        for world in layer:
            for text, number, after in steps(setting, world):
                taken += 1
                after, swapped = canonical(after, prunes)
                if after in came:
                    continue
                came[after] = (world, text, number, swapped)
                if after.wrong:
                    return Explored(len(came), taken, depth + 1, _trace(came, after))
                reached.append(after)
            if len(came) > worlds_max:
                return Explored(len(came), taken, depth, cut=True)
        layer = reached
        depth += bool(layer)
    return Explored(len(came), taken, depth)


def canonical(world: World, prunes: bool = True) -> tuple[World, bool]:
    """The one that stands for all worlds which differ by nothing that can matter, and whether masterds changed places:
    they are interchangeable, and copies that can never land again need not be remembered."""
    if prunes and world.late:
        late = tuple(txn for txn in world.late if _may_land(world, txn))
        if len(late) != len(world.late):
            world = world._replace(late=late)
    one, two = world.masterds
    if two < one:
        return world._replace(masterds=(two, one)), True
    return world, False


def _may_land(world: World, txn: Txn) -> bool:
    """Terms are revisions, which are never used again: what compares another than the present one has lost."""
    if isinstance(txn, Takeover):
        return txn.seen in (0, world.store.leader[0])
    return txn.term == world.store.leader[0]


def _trace(came: dict[World, tuple[World | None, str, int, bool]], world: World) -> tuple[str, ...]:
    """The way to this world, with the masterds named A and B as at its beginning."""
    way = []
    at: World | None = world
    while at is not None:
        before, text, number, swapped = came[at]
        way.append((text, number, swapped))
        at = before
    lines, turned = [], False
    for text, number, swapped in reversed(way[:-1]):
        lines.append(text.format("AB"[number ^ turned]))
        turned ^= swapped
    return (*lines, world.wrong)
