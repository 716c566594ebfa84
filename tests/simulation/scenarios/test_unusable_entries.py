"""Journal entries that a replica cannot apply: it stops there and says so, and no masterd ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from masterd.state_machine.state import State
from nodestore.errors import Garbage
from nodestore.etcd.session import op_delete
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.models import Inventory
from nodestore.schema.records import RecordStruct, with_commands
from nodestore.support.jsonio import dumps
from tests.simulation.runs import play
from tests.simulation.world import Pc, World


def _foreign(index: int, **more: Any) -> bytes:
    """An entry that another program wrote."""
    record = {"index": index, "id": "f", "actor": "x", "time": 1.0, "name": "n", "args": {}, "result": None, **more}
    return dumps({"v": 1, "epoch": 1, "term": 1, "nonce": "x", "commands": [record]})


_NO_INVENTORY = {
    "config": {"v": 1, "version": 9, "actor": "a", "time": 0.0, "inventory": {"nodes": 5}}, "config_revision": 1,
}  # fmt: skip
_UNUSABLE: dict[str, Callable[[int], bytes]] = {
    "no JSON": lambda _: b"garbage",
    "no inventory": lambda index: _foreign(index, **_NO_INVENTORY),
    "an action with a foreign field": lambda index: _foreign(index, actions={"n1": {"name": "a", "index": 3}}),
    "a snapshot that does not exist": lambda index: _foreign(index, restore="0000000000000001-none"),
}


async def _two(world: World) -> tuple[Pc, Pc]:
    """A leader and a standby that has followed it."""
    await world.start("m1", "m2")
    leader = await world.serving()
    await world.command("append", {"path": "lists/0", "item": "a"})
    await asyncio.sleep(1)
    return leader, next(pc for pc in world.running.values() if pc is not leader)


def _equal(one: Pc, other: Pc) -> bool:
    return one.parts.replica.index == other.parts.replica.index


@pytest.mark.parametrize("unusable", _UNUSABLE.values(), ids=_UNUSABLE.keys())
def test_an_unusable_key_after_the_last_commit_stops_nobody(unusable: Callable[[int], bytes]) -> None:
    """It is reported, with its key. The leader goes on, and after its crash the standby leads."""

    async def life(world: World) -> None:
        leader, standby = await _two(world)
        key = world.keys.entry(leader.parts.replica.index + 1)
        await world.witness.put(key, unusable(leader.parts.replica.index + 1))
        await asyncio.sleep(1)
        assert key in (standby.parts.health.problem or "")
        leader.crash()
        assert await world.serving() is standby
        await world.command("append", {"path": "lists/0", "item": "b"})
        await world.settle()

    play(life, judged=False)


def test_without_head_nothing_says_that_a_key_may_be_deleted() -> None:
    """Only `head` shows that a key is no commit. Once the leader has written `head` again, it is said."""

    async def life(world: World) -> None:
        leader, standby = await _two(world)
        key = world.keys.entry(leader.parts.replica.index + 1)
        await world.witness.delete(world.keys.head)
        await world.witness.put(key, b"{oops")
        await asyncio.sleep(0.5)
        assert "delete this key" not in (standby.parts.health.problem or "")
        await asyncio.sleep(15)
        await world.witness.put(key, b"{oops again")
        await asyncio.sleep(0.5)
        assert "delete this key" in (standby.parts.health.problem or "")

    play(life, judged=False)


@pytest.mark.parametrize("unusable", _UNUSABLE.values(), ids=_UNUSABLE.keys())
def test_a_standby_stops_at_a_committed_entry_that_it_cannot_apply(unusable: Callable[[int], bytes]) -> None:
    """It names the key and the remedy. The leader's next check of the store writes a snapshot, and it goes on."""

    async def life(world: World) -> None:
        leader, standby = await _two(world)
        standby.crash()
        await world.command("append", {"path": "lists/0", "item": "b"})
        index = leader.parts.replica.index
        await world.witness.put(world.keys.entry(index), unusable(index))
        await world.start(standby.name)
        standby = world.running[standby.name]
        await world.until(lambda: standby.parts.replica.stuck is not None, "the standby is stuck")
        problem = standby.parts.health.role_problem or ""
        assert world.keys.entry(index) in problem
        assert "docs/recovery.md" in problem
        assert standby.parts.replica.index == index - 1
        for item in "cd":
            await world.command("append", {"path": "lists/0", "item": item})
        await world.until(
            lambda: standby.parts.replica.index == leader.parts.replica.index, "the standby has caught up"
        )
        assert standby.parts.health.problem is None
        await world.settle()

    play(life, judged=False)


def test_after_a_failover_onto_an_unusable_entry_no_masterd_ends_and_none_writes_terms() -> None:
    """Status says why. The removal that docs/recovery.md describes gets the cluster going, without that commit."""

    async def life(world: World) -> None:
        leader, standby = await _two(world)
        standby.crash()
        await world.command("append", {"path": "lists/0", "item": "b"})
        index = leader.parts.replica.index
        await world.witness.put(world.keys.entry(index), _foreign(index, **_NO_INVENTORY))
        leader.crash()
        await world.start("m1", "m2")
        await asyncio.sleep(60)
        assert world.leader is None
        assert len(world.running) == 2
        for pc in world.running.values():
            assert world.keys.entry(index) in (pc.parts.health.role_problem or "")
        terms = len((await world.witness.range(world.keys.terms)).kvs)
        await asyncio.sleep(600)
        assert len((await world.witness.range(world.keys.terms)).kvs) == terms, "terms are written over and over"
        await world.witness.txn([], [op_delete(world.keys.entry(index))])
        await world.witness.put(world.keys.head, dumps({"v": 1, "index": index - 1, "nonce": "repaired"}))
        await asyncio.sleep(60)
        assert world.leader is None, "`applied` shows that more was committed"
        assert len((await world.witness.range(world.keys.terms)).kvs) <= terms + 2, "terms are written over and over"
        await world.witness.txn([], [op_delete(world.keys.applied)])
        await world.serving()
        world.commands.clear()  # a client that still knew the lost index would be refused
        await world.settle()

    play(life, judged=False)


def test_a_standby_of_an_older_version_stops_at_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer leader adopts a configuration that the standby's models refuse."""
    older: list[State] = []
    real = Inventory.without_name_check

    async def life(world: World) -> None:
        leader, standby = await _two(world)

        def refuse(fields: Any) -> Inventory:
            if any(standby.parts.replica.state is state for state in older):
                return Inventory.model_validate({"nodes": 5})
            return real(fields)

        def apply(state: State, entry: Any, images: Any = None) -> None:
            older[:] = [state]
            applied(state, entry, images)
            older.clear()

        applied = State.apply
        monkeypatch.setattr(State, "apply", apply)
        monkeypatch.setattr(Inventory, "without_name_check", refuse)
        await world.configure(2, "red")
        await world.until(lambda: standby.parts.replica.stuck is not None, "the standby is stuck")
        for number in range(3):
            await world.command("append", {"path": "lists/0", "item": str(number)})
        await asyncio.sleep(30)
        assert standby.parts.replica.index < leader.parts.replica.index
        assert "nodes" in (standby.parts.health.problem or "")
        assert not standby.life.done()
        monkeypatch.undo()  # a newer version is installed
        await world.until(
            lambda: standby.parts.replica.index == leader.parts.replica.index, "the standby has caught up"
        )

    play(life, judged=False)


def test_a_failed_apply_leaves_the_state_unchanged() -> None:
    state = State()
    good = RecordStruct(index=1, id="a", actor="x", time=1.0, name="n", args={}, result=None, writes={"p": {"a": 1}})
    entry = decode_entry(_foreign(2, **_NO_INVENTORY), "k")
    both = with_commands(entry, (good, *entry.commands))
    with pytest.raises(Garbage):
        state.apply(both)
    assert (state.index, state.documents, state.ids) == (0, {}, {})
