"""POST /v1/commands/outcome of real masterds: what it answers, through a standby, and over a change of leaders."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from nodectl import Client
from nodestore.errors import Conflict, IdClosed, Invalid, NodectlError, Unavailable
from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.waiting import eventually

OUTCOME = "/v1/commands/outcome"
SAVE = {"name": "scene.save", "args": {"name": "s", "nodes": {}}}


async def ask(masters: Masters, name: str, command_id: str, after: int = 0) -> dict[str, Any]:
    return await masters.ask(name, "POST", OUTCOME, {"id": command_id, "after": after, "actor": "ann"})


async def send(masters: Masters, name: str, command_id: str) -> dict[str, Any]:
    return await masters.ask(name, "POST", "/v1/commands", {**SAVE, "id": command_id, "after": 0})


async def forwards(masters: Masters, name: str) -> bool:
    with contextlib.suppress(Unavailable):
        return bool(await masters.ask(name, "GET", "/v1/leader"))
    return False


async def test_the_answers_hold_for_every_master(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Asked at the leader, at a standby that passes the question on, and at the next leader."""
    async with Masters(etcd_one, keys) as masters:
        masters.start("m1")
        await masters.wait_serving("m1")
        masters.start("m2")
        await masters.wait_candidate("m2")
        await eventually(lambda: forwards(masters, "m2"), "m2 passes requests on")
        done = await send(masters, "m1", "sent")
        closed = await ask(masters, "m2", "never-sent")
        assert closed == {
            "id": "never-sent", "took_effect": False, "index": done["index"] + 1, "result": None, "result_kept": False,
        }  # fmt: skip
        await masters.ask("m1", "POST", "/v1/leader/switchover", {"to": "m2"})
        for name in ("m1", "m2"):
            assert await ask(masters, name, "never-sent") == closed
            known = await ask(masters, name, "sent")
            assert (known["took_effect"], known["index"], known["result"]) == (True, done["index"], done["result"])
            with pytest.raises(IdClosed, match=f"closed at index {closed['index']}"):
                await send(masters, name, "never-sent")
        async with Client([process.url for process in masters.running.values()]) as client:
            assert await client.outcome_of("never-sent", 0) == closed
        history = (await masters.ask("m1", "GET", "/v1/history?command=command.close"))["entries"]
        assert [(entry["id"], entry["actor"]) for entry in history] == [("never-sent", "ann")]


async def test_questions_that_cannot_be_answered(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Each is refused with the field and the reason, and nothing is written."""
    refused: list[tuple[dict[str, Any], type[NodectlError], str]] = [
        ({"after": 0}, Invalid, "id: expected a text"),
        ({"id": "x"}, Invalid, "after: a command with an id needs the index"),
        ({"id": "x", "after": -1}, Invalid, "after: a command"),
        ({"id": "action.done-n1-1-7", "after": 0}, Invalid, "reserved for masterd"),
        ({"id": "x", "after": 1 << 40}, Conflict, "restored from a backup"),
    ]
    async with Masters(etcd_one, keys) as masters:
        masters.start("m1")
        await masters.wait_serving("m1")
        index = (await masters.ask("m1", "GET", "/v1/leader"))["index"]
        for body, kind, says in refused:
            with pytest.raises(kind, match=says):
                await masters.ask("m1", "POST", OUTCOME, body)
        assert (await masters.ask("m1", "GET", "/v1/leader"))["index"] == index
