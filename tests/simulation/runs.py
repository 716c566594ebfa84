"""Runs of a simulated cluster that several tests use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.checkers import problems
from tests.simulation.faults import CallFault
from tests.simulation.storm import Storm
from tests.simulation.world import World
from tests.support.fakes.clock import VirtualTime

Life = Callable[[World], Coroutine[Any, Any, None]]


def play(life: Life, *, judged: bool = True, **world_fields: Any) -> None:
    """Run `life` in a new World with these fields, and check it.

    judged: apply all checkers, which know only commands that `World` sends, and expect the whole journal. Errors of the
    programs and of the event loop are never accepted.
    """
    with VirtualTime() as time:
        world = World(time, **world_fields)
        world.run(life(world))
        if judged:
            assert problems(world) == []
        assert world.program_errors == []
        world.run(world.close())
        assert world.program_errors == []
        assert time.troubles == []


async def good_run(world: World) -> None:
    """Two terms without faults: commands on several documents, reads, nodes that obey, a reader of the stream."""
    storm = Storm(world, 0)
    await storm.begin()
    for number in range(3):
        await world.command("append", {"path": "lists/0", "item": str(number)})
        await world.command("put", {"path": "nodes/n1", "document": {"x": number}})
        await world.read()
        await asyncio.sleep(0.5)
        if number == 1:
            await world.switchover()
    await storm.rest()


async def _leader_life(world: World, fault: CallFault) -> None:
    """Everything that a leader does at least once, with several commands under way at any time."""
    await world.start("m1", "m2")
    await world.configure(2, "red")
    await world.serving()
    fault.arm(world)
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


def run_with_fault(fault: CallFault) -> list[str]:
    """What the checkers find wrong after this run with the fault."""
    with VirtualTime() as time:
        world = World(time)
        try:
            world.run(_leader_life(world, fault))
            wrong = problems(world)
        except AssertionError as error:  # it does not come to rest: the checkers may say why
            wrong = [str(error), *problems(world)]
        world.run(world.close())
    return wrong + [f"the event loop complains: {trouble}" for trouble in time.troubles]
