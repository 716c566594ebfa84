"""Bugs that random runs have found, each as the shortest run that reproduces it."""

from __future__ import annotations

import asyncio

from nodestore.errors import NotFound
from tests.simulation.runs import play
from tests.simulation.world import World


def test_an_index_that_was_truncated_away_cannot_be_restored() -> None:
    """A restore of a truncated index, which no snapshot covers, is refused as not found and ends no masterd."""

    async def life(world: World) -> None:
        await world.start("m1", "m2")
        for number in range(20):
            await world.command("append", {"path": "lists/0", "item": str(number)})
            await asyncio.sleep(0.1)
        await world.until(lambda: _truncated(world), "the first entry is truncated")
        command = await world.restore(index=1)
        assert isinstance(command.refused, NotFound), command
        await world.settle()
        assert world.starts == 2

    play(life)


def _truncated(world: World) -> bool:
    first = world.keys.entry(1).encode()
    return any(
        event.kv.key == first and not event.kv.version for _, events in world.server.store.log for event in events
    )
