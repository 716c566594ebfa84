"""etcd is emptied, or restored to an older state, under running masterds and nodeds.

To them it is another store: no master leads in it, nodes keep what they run, nobody forgets its memory, and only the
higher epoch that `nodectl recover` begins is believed.
"""

from __future__ import annotations

import asyncio

import pytest

from nodectl.backup_restore import recovery
from nodestore.errors import NotFound
from nodestore.schema.models import Desired, Epoch, Status, decode
from tests.simulation.node import Node
from tests.simulation.runs import play
from tests.simulation.world import Pc, World
from tests.support.fakes.mvcc import Backup

_NOTICED_S = 10.0
_BUMP = 2_000_000_000


async def begin(world: World) -> Backup:
    """Two masterds, a node and some commands; return a backup of an earlier moment."""
    await world.start("m1", "m2")
    await world.configure(1, "red")
    world.nodes["n1"] = Node(world, "n1")
    await world.serving()
    await order(world, 1)
    await asyncio.sleep(2.0)
    backup = world.server.store.backup()
    for number in (2, 3, 4):
        await order(world, number)
    await asyncio.sleep(3.0)
    return backup


async def order(world: World, number: int) -> None:
    command = await world.command("put", {"path": "nodes/n1", "document": {"x": number}})
    assert command.index, command


def obeyed(world: World) -> Desired:
    desired = world.nodes["n1"].orders.desired
    assert desired is not None
    return desired


def expect_no_leader(world: World, index: int) -> None:
    """No masterd leads, each one says why, and holds the state that it had."""
    assert world.leader is None
    for pc in world.running.values():
        assert "nodectl recover" in (pc.parts.health.problem or ""), pc.name
        assert pc.parts.replica.index == index, pc.name


def index_of(pc: Pc) -> int:
    return pc.parts.replica.index


async def status_of_node(world: World) -> Status:
    found = await world.witness.get(world.keys.status_of("n1"))
    assert found is not None
    return decode(Status, found.value, found.key)


async def recover(world: World) -> int:
    """As `nodectl recover` does; return the new epoch."""
    found = await recovery.read_restored(world.witness, world.keys)
    return (await recovery.begin_epoch(world.witness, world.keys, found, "test")).epoch


@pytest.mark.parametrize("cluster_id", [1, 2], ids=["the same cluster id", "another cluster id"])
def test_an_emptied_store(cluster_id: int) -> None:
    """The masterds keep their memory and the node its order; after `nodectl recover` all of it is in force again."""

    async def life(world: World) -> None:
        await begin(world)
        before, index = obeyed(world), index_of(await world.serving())
        world.replace_store(None, cluster_id=cluster_id)
        await asyncio.sleep(_NOTICED_S)
        expect_no_leader(world, index)
        assert await world.witness.get(world.keys.epoch) is None, "no program begins an epoch again"
        assert obeyed(world) == before
        status = await status_of_node(world)
        assert "another store" in (status.warning or "") or "is missing" in (status.warning or "")
        assert status.store is not None
        assert await recover(world) == 2
        leader = await world.serving()
        assert index_of(leader) == index
        await order(world, 5)
        await asyncio.sleep(3.0)
        assert (obeyed(world).epoch, obeyed(world).spec.document["x"]) == (2, 5)
        assert (await status_of_node(world)).epoch == 2
        for pc in tuple(world.running.values()):
            pc.crash()
        await world.start("m3")
        assert index_of(await world.serving()) > index

    play(life, judged=False)


@pytest.mark.parametrize(("cluster_id", "bump"), [(1, 0), (2, 0), (2, _BUMP)])
def test_an_older_store(cluster_id: int, bump: int) -> None:
    """Nothing is obeyed in it, by masterds and by the node, before `nodectl recover`; afterwards the restored order is,
    although its generation is lower."""

    async def life(world: World) -> None:
        backup = await begin(world)
        before, index = obeyed(world), index_of(await world.serving())
        world.replace_store(backup, cluster_id=cluster_id, bump=bump)
        await asyncio.sleep(_NOTICED_S)
        expect_no_leader(world, index)
        assert obeyed(world) == before
        for pc in tuple(world.running.values()):
            pc.crash()
        await asyncio.sleep(5.0)
        assert await recover(world) == 2
        await world.start("m1", "m2")
        leader = await world.serving()
        assert index_of(leader) < index
        await asyncio.sleep(5.0)
        assert (obeyed(world).epoch, obeyed(world).spec.document["x"]) == (2, 1)
        assert obeyed(world).generation < before.generation
        world.commands.clear()  # a client that knows the lost commands would get a conflict
        await order(world, 9)

    play(life, judged=False)


def test_a_masterd_that_remembers_nothing_believes_the_node() -> None:
    """The masterds restart without a state directory in a restored store. The node's status names the store that was
    lost, so none of them leads."""

    async def life(world: World) -> None:
        backup = await begin(world)
        for pc in tuple(world.running.values()):
            pc.crash()
        world.replace_store(backup, cluster_id=2, bump=_BUMP)
        await asyncio.sleep(_NOTICED_S)
        await world.start("m1", "m2")
        await asyncio.sleep(_NOTICED_S)
        assert world.leader is None
        assert await recover_with_masters_stopped(world) == 2
        await world.start("m1")
        await world.serving()

    async def recover_with_masters_stopped(world: World) -> int:
        for pc in tuple(world.running.values()):
            pc.crash()
        await asyncio.sleep(5.0)
        return await recover(world)

    play(life, judged=False)


def test_a_masterd_with_a_state_directory_remembers() -> None:
    """Restarted in an emptied store, it begins no epoch. Restarted in its own store, it leads."""

    async def life(world: World) -> None:
        world.disks = {}
        await begin(world)
        await world.nodes.pop("n1").end()
        for pc in tuple(world.running.values()):
            pc.crash()
        await world.start("m1")
        await world.serving()
        world.running["m1"].crash()
        world.replace_store(None, cluster_id=1)
        await world.start("m1")
        await asyncio.sleep(_NOTICED_S)
        assert world.leader is None
        assert await world.witness.get(world.keys.epoch) is None
        assert await recover(world) == 2, "above the epoch that it remembers"
        await world.serving()

    play(life, judged=False)


def test_a_new_store_begins_by_itself_and_an_empty_one_has_nothing_to_recover() -> None:
    """Without any memory and any report, epoch 1 begins. Before that, `nodectl recover` finds no cluster."""

    async def life(world: World) -> None:
        with pytest.raises(NotFound):
            await recover(world)
        await world.start("m1")
        await world.serving()
        found = await world.witness.get(world.keys.epoch)
        assert found is not None
        assert decode(Epoch, found.value, found.key).epoch == 1

    play(life, judged=False)


def test_an_epoch_that_was_deleted_while_no_masterd_ran_is_not_begun_again() -> None:
    """The store holds a journal, so it is not new."""

    async def life(world: World) -> None:
        await begin(world)
        await world.nodes.pop("n1").end()
        for pc in tuple(world.running.values()):
            pc.crash()
        await asyncio.sleep(5.0)
        await world.witness.delete(world.keys.epoch)
        await world.witness.delete(world.keys.status, prefix=True)
        await world.start("m1")
        await asyncio.sleep(_NOTICED_S)
        assert world.leader is None
        assert await world.witness.get(world.keys.epoch) is None
        assert await recover(world) == 2
        leader = await world.serving()
        assert index_of(leader) > 0

    play(life, judged=False)


def test_the_heir_dies_before_it_leads() -> None:
    """The other masterd has kept its state, and is the heir of the next recovery."""

    async def life(world: World) -> None:
        await begin(world)
        index = index_of(await world.serving())
        world.replace_store(None, cluster_id=2)
        await asyncio.sleep(_NOTICED_S)
        found = await recovery.read_restored(world.witness, world.keys)
        assert found.heir is not None
        world.running[found.heir.id].crash()
        await recovery.begin_epoch(world.witness, world.keys, found, "test")
        await asyncio.sleep(_NOTICED_S)
        assert world.leader is None
        again = await recovery.read_restored(world.witness, world.keys)
        assert not again.recovered
        assert await recover(world) == 3
        leader = await world.serving()
        assert index_of(leader) >= index
        assert leader.parts.replica.state.documents["nodes/n1"].value == {"x": 4}

    play(life, judged=False)
