"""Texts and views that are too large: refused at the door, and no reason for a leader to stop serving."""

from __future__ import annotations

import asyncio

from masterd.state_machine.batch import CommandRequest
from masterd.term.leader import LeaderSettings
from nodestore.errors import Invalid
from nodestore.schema.models import Actions, decode
from nodestore.support.jsonio import dumps
from tests.simulation.runs import play
from tests.simulation.world import World

_LONG = "a" * 100_000


def test_a_long_actor_is_refused_and_changes_nothing() -> None:
    async def life(world: World) -> None:
        await world.start("m1", "m2")
        await world.configure(2, "red")
        pc = await world.serving()
        await asyncio.sleep(1)
        assert pc.leader is not None
        index = pc.parts.replica.index
        requests = [CommandRequest(f"act-{n}", "act", {"node": "n1"}, _LONG, 0) for n in range(16)]
        outcomes = await pc.leader.submit(requests)
        assert all(isinstance(outcome.error, Invalid) for outcome in outcomes)
        assert "actor" in str(outcomes[0].error)
        assert pc.parts.replica.index == index

    play(life, judged=False, settings=LeaderSettings())


def test_an_old_store_whose_actions_have_long_actors_is_served() -> None:
    """Sixteen entries of an earlier version make a view larger than a request of etcd."""

    async def life(world: World) -> None:
        for index in range(1, 17):
            action = {"name": "restart", "args": {}, "expires": 4e9}
            record = {
                "index": index, "id": f"c{index}", "actor": _LONG, "time": 1.0, "name": "act", "args": {},
                "result": None, "actions": {"n1": action},
            }  # fmt: skip
            entry = {"v": 1, "epoch": 1, "term": 1, "nonce": f"e{index}", "commands": [record]}
            await world.witness.put(world.keys.entry(index), dumps(entry))
        await world.witness.put(world.keys.epoch, dumps({"v": 1, "epoch": 1}))
        await world.witness.put(world.keys.head, dumps({"v": 1, "index": 16, "nonce": "e16"}))
        await world.start("m1", "m2")
        await world.serving()
        await world.command("append", {"path": "lists/0", "item": "a"})
        view = await world.witness.get(world.keys.actions_of("n1"))
        assert view is not None
        pending = decode(Actions, view.value, view.key).pending
        assert len(pending) == 16
        assert max(len(action.actor) for action in pending) <= 256
        terms = len((await world.witness.range(world.keys.terms)).kvs)
        assert terms == 1

    play(life, judged=False, settings=LeaderSettings())


def test_a_view_that_etcd_refuses_is_left_out_and_reported() -> None:
    """The members' limit is lower than the leader's, as after a restore with larger settings. All other views go on."""

    async def life(world: World) -> None:
        await world.start("m1", "m2")
        pc = await world.serving()
        await world.command("put", {"path": "large", "document": {"text": "a" * 300_000}})
        await world.command("append", {"path": "lists/0", "item": "a"})
        world.server.limit_requests(250_000)
        applied = world.keys.applied
        await world.witness.put(applied, dumps({"v": 1, "index": 1, "base": 0, "through": "", "epoch": 1}))
        large = await world.witness.get(world.keys.document("large"))
        assert large is not None
        await world.witness.put(world.keys.document("large"), b"{}")
        pc.crash()
        pc = await world.serving()
        await world.command("append", {"path": "lists/0", "item": "b"})
        assert await world.witness.get(world.keys.document("large")) is None
        assert world.keys.document("large") in (pc.parts.health.problem or "")
        small = await world.witness.get(world.keys.document("lists/0"))
        assert small is not None
        assert b'"b"' in small.value

    play(life, judged=False, settings=LeaderSettings())


def test_a_view_that_is_left_out_is_reported_by_later_leaders_too() -> None:
    """`applied` says that all views are complete. The later leader finds the missing view, and blames no program."""

    async def life(world: World) -> None:
        await world.start("m1", "m2")
        await world.serving()
        await world.command("put", {"path": "large", "document": {"text": "a" * 300_000}})
        world.server.limit_requests(250_000)
        await world.witness.delete(world.keys.document("large"))
        pc = await world.serving()
        await world.until(lambda: "large" in (pc.parts.health.problem or ""), "it is reported", 30.0)
        pc.crash()
        later = await world.serving()
        assert later is not pc
        await world.until(lambda: "large" in (later.parts.health.problem or ""), "it is reported again", 30.0)
        await asyncio.sleep(15.0)
        assert later.leader is not None
        assert later.leader.store_repairs == []

    play(life, judged=False, settings=LeaderSettings())
