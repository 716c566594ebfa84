"""Whatever call of a leader to etcd goes wrong, and however: what was acknowledged stands, once and in order."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.simulation.checkers import problems
from tests.simulation.faults import KINDS, Strike
from tests.simulation.world import World
from tests.support.fakes.clock import VirtualTime

_STRIDE = 1 if os.environ.get("NODECTL_PROPERTIES") == "long" else 5
"""Every so manieth call is tried, another one for each kind of fault; all of them when there is time."""


async def _life(world: World, strike: Strike) -> None:
    """Some of everything that a leader does, with several commands on their way at any time."""
    await world.start("m1", "m2")
    await world.configure(2, "red")
    await world.serving()
    strike.arm(world)
    await asyncio.gather(
        world.command("put", {"path": "nodes/n1", "document": {"x": 1}}),
        world.command("append", {"path": "lists/0", "item": "once"}, once=True),
        *(world.command("append", {"path": f"lists/{number % 2}", "item": f"{number}"}) for number in range(5)),
    )
    await world.save("before")
    await asyncio.gather(
        world.command("act", {"node": "n1"}),
        world.command("delete", {"path": "lists/1"}),
        world.command("refuse", {"path": "lists/0"}),
        world.read(),
    )
    await world.configure(3, "blue")
    await world.command("put", {"path": "nodes/n3", "document": {"x": 3}})
    await asyncio.gather(
        world.restore(snapshot="before"),
        world.command("append", {"path": "lists/1", "item": "after"}),
        world.read(),
    )
    await world.command("act", {"node": "n2", "expires_s": 0.5})
    await world.command("append", {"path": "lists/1", "item": "once more"}, once=True)
    await asyncio.sleep(1.0)
    await world.command("append", {"path": "lists/0", "item": "last"})
    await world.settle()


def run(strike: Strike) -> list[str]:
    """What is wrong after such a life with that fault in it."""
    with VirtualTime() as time:
        world = World(time)
        world.run(_life(world, strike))
        wrong = problems(world)
        world.run(world.close())
    return wrong + [f"the event loop complains: {trouble}" for trouble in time.troubles]


def calls_without_fault() -> int:
    """How many calls the leader of such a life makes."""
    strike = Strike("none", 1 << 30)
    assert run(strike) == []
    return strike.seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_call(kind: str) -> None:
    """No acknowledged command is lost or doubled, no deposed leader's write lands, all views are right in the end."""
    calls = calls_without_fault()
    first = KINDS.index(kind) % _STRIDE
    for number in range(first, calls, _STRIDE):
        strike = Strike(kind, number)
        wrong = run(strike)
        assert not wrong, f"{kind}, call {number} of {calls} ({strike.struck[:300]}): {wrong}"
