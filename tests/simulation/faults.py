"""Faults of one call from a masterd to etcd, and of the masterd at that call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.faults.network.proxy import Mode
from tests.simulation.world import Pc, World, no_fault
from tests.support.fakes.link import FINE, LOST, REFUSED, UNHEARD, Fate

_ATTEMPT_PASSED_S = 0.9  # after the timeout of a session's attempt, perhaps before that of its call
_TAKEN_OVER_S = 3.5  # another masterd leads by then
_SERVES_S = 1.0  # another masterd that has taken over serves by then, or has lost its term

KINDS = (
    "crash before it lands",
    "crash after it landed",
    "crash, and it lands under the next leader",
    "its reply is lost",
    "it is lost",
    "it lands after its repeat",
    "it is refused",
    "its sender is cut off until another leads",
    "it is held until another has just taken over",
    "it lands, and nothing is heard until another has committed",
)
LOST_IN_DOUBT = "it is lost, and nothing is heard until another has committed"
"""A fault that only some runs use."""


def fate_of(kind: str, world: World, pc: Pc) -> Fate:
    """Apply the fault to the masterd and return the fate of the call."""
    loop = asyncio.get_running_loop()
    match kind:
        case "crash before it lands":
            return Fate(arrives=False, then=pc.crash)
        case "crash after it landed":
            return Fate(replied=False, then=pc.crash)
        case "crash, and it lands under the next leader":
            loop.call_soon(pc.crash)
            return Fate(late_s=_TAKEN_OVER_S, replied=False)
        case "its reply is lost":
            return UNHEARD
        case "it is lost":
            return LOST
        case "it lands after its repeat":
            return Fate(late_s=_ATTEMPT_PASSED_S)
        case "it is refused":
            return REFUSED
        case "its sender is cut off until another leads":
            pc.link.set(up=Mode.HOLD, down=Mode.HOLD)
            loop.call_later(_TAKEN_OVER_S, pc.link.forward)
            return FINE
        case "it is held until another has just taken over":
            pc.link.set(up=Mode.HOLD)
            world.later(0.1, partial(_take_over_and_forward, world, pc))
            return FINE
        case "it lands, and nothing is heard until another has committed":
            world.fate = lambda who, *_: UNHEARD if who is pc else FINE
            world.later(0.1, partial(_take_over_and_forward, world, pc, commit=True))
            return UNHEARD
        case str() if kind == LOST_IN_DOUBT:
            world.fate = lambda who, *_: LOST if who is pc else FINE
            world.later(0.1, partial(_take_over_and_forward, world, pc, commit=True))
            return LOST
    raise ValueError(kind)


async def _take_over_and_forward(world: World, pc: Pc, *, commit: bool = False) -> None:
    await world.switchover()
    deadline = asyncio.get_running_loop().time() + _SERVES_S
    while commit and world.leader is pc and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.001)
    if commit and world.leader is not pc:  # a command to this masterd would wait until it hears of etcd again
        await world.command("append", {"path": "lists/0", "item": "under the next leader"}, patience_s=1.0)
    world.fate = no_fault
    pc.link.forward()


@dataclass
class CallFault:
    """One fault at the call with this number that a leader makes, counted from 0 after `arm`.

    commits: count only commits.
    """

    kind: str
    number: int
    commits: bool = False
    calls: int = 0
    hit: str = ""
    """The call that the fault hit."""

    def arm(self, world: World) -> None:
        world.fate = partial(self.fate, world)

    def fate(self, world: World, pc: Pc, method: str, request: Any) -> Fate:
        if pc.leader is None or self.hit or (self.commits and not _commits(world, request)):
            return FINE
        self.calls += 1
        if self.calls <= self.number:
            return FINE
        self.hit = f"{pc.name}: {method} {request}"
        return fate_of(self.kind, world, pc)


def _commits(world: World, request: Any) -> bool:
    return puts(request, world.keys.head)


def puts(request: Any, key: str) -> bool:
    """Whether the request is a transaction that puts this key if its compares hold."""
    name = key.encode()
    return any(op.request_put.key == name for op in getattr(request, "success", ()))


def puts_have(fate: Fate, key: str, pc: Pc, method: str, request: Any) -> Fate:
    """Transactions that put this key have this fate, all other calls are fine. Bind the first two for `World.fate`."""
    return fate if puts(request, key) else FINE
