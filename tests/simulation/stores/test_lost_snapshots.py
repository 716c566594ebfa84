"""Named snapshots that another program deletes are reported; those that an operator deletes are not."""

from __future__ import annotations

import asyncio

from masterd.term.leader import LeaderSettings
from masterd.upkeep.store_budget import StoreBudget
from nodestore.cluster.configuration import Configuration
from nodestore.etcd.session import op_delete
from nodestore.schema.keys import prefix_end
from nodestore.schema.models import ConfigRecord, decode
from tests.simulation.runs import play
from tests.simulation.world import World


async def _with_two_names(world: World) -> None:
    await world.start("m1")
    await world.serving()
    await world.command("append", {"path": "lists/0", "item": "a"})
    for name in ("kept", "lost"):
        await world.save(name)
    await asyncio.sleep(20.0)


def test_a_named_snapshot_that_another_program_deletes_is_reported() -> None:
    """By its name, once. It cannot be written again, because the state of then is not in memory."""

    async def life(world: World) -> None:
        await _with_two_names(world)
        leader = (await world.serving()).leader
        assert leader is not None
        full, _ = await leader.archive._snapshots.find("lost")
        prefix = world.keys.snapshot(full)
        await world.witness.txn([], [op_delete(prefix, end=prefix_end(prefix))])
        await asyncio.sleep(40.0)
        assert leader.store_repairs == [
            "snapshot 'lost' was deleted or damaged by another program, and cannot be written again"
        ]

    play(life, judged=False, settings=LeaderSettings())


def test_a_named_snapshot_that_an_operator_deletes_is_not_reported() -> None:
    """Nor is one that an operator deleted during another leader's term."""

    async def life(world: World) -> None:
        await _with_two_names(world)
        leader = (await world.serving()).leader
        assert leader is not None
        await leader.archive.delete("lost")
        await asyncio.sleep(20.0)
        assert leader.store_repairs == []

    play(life, judged=False, settings=LeaderSettings())


def test_the_history_of_configurations_is_bounded_by_bytes() -> None:
    """Within one term, without a restart. The newest two are kept even if they exceed the limit."""
    limit = 20_000

    async def life(world: World) -> None:
        await world.start("m1")
        await world.serving()
        assert len([await _apply(world, 1_000) for _ in range(8)]) == 8
        versions = await _versions(world)
        assert sum(versions.values()) <= limit
        assert list(versions) == list(range(9 - len(versions), 9))
        assert 2 < len(versions) < 8
        await _apply(world, 30_000)
        assert list(await _versions(world)) == [8, 9]

    play(life, judged=False, settings=LeaderSettings(budget=StoreBudget(config_history_bytes_max=limit)))


async def _apply(world: World, size: int) -> int:
    """Apply a configuration of about this many bytes, and wait until its adoption has pruned the history."""
    inventory = {"nodes": {"n1": {}}, "defaults": {"document": {"colour": "r" * size}}}
    found = Configuration(world.witness, world.keys)
    version = await found.apply(inventory, source="s" * 2_000, expect_version=None, actor="admin")
    await asyncio.sleep(3.0)
    return version


async def _versions(world: World) -> dict[int, int]:
    """The size of each configuration in the history, by version."""
    stored = (await world.witness.range(world.keys.config_history)).kvs
    return {decode(ConfigRecord, kv.value, kv.key).version: len(kv.value) for kv in stored}
