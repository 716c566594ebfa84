"""Something changes the store, or the leader is cut off, at the worst moment of one commit of a whole masterd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.term.leader import Leader
from nodestore.errors import LeadershipLost, NodectlError
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.schema.keys import prefix_end
from nodestore.schema.models import Acted, ActionResult, Entry, TermRecord, decode
from tests.faults.network.proxy import Mode
from tests.simulation import judge
from tests.simulation.faults import puts_have
from tests.simulation.runs import play
from tests.simulation.world import Pc, World, no_fault
from tests.support.fakes.link import FINE, REFUSED, UNHEARD, Fate

SETTINGS = replace(World.settings, max_txn_ops=16)


async def started(world: World) -> Leader:
    await world.start("m1", "m2")
    await world.configure(2, "red")
    pc = await world.serving()
    await world.command("append", {"path": "lists/0", "item": "a"})
    assert pc.leader is not None
    return pc.leader


def put(world: World, key: str, value: bytes) -> None:
    world.server.store.put(pb.PutRequest(key=key.encode(), value=value))


def before_commit(world: World, of: Callable[[Entry], bool], then: Callable[[], None]) -> None:
    """Call `then` just before the first commit of such an entry arrives."""

    def fate(pc: Pc, method: str, request: Any) -> Fate:
        for op in getattr(request, "success", ()):
            key = op.request_put.key.decode()
            if key.startswith(world.keys.journal) and of(decode(Entry, op.request_put.value, key)):
                world.fate = no_fault
                then()
        return FINE

    world.fate = fate


def names(world: World) -> list[str]:
    return [record.name for record in judge.history_of(world.server, world.keys).records]


# --- the compares of single commits ---------------------------------------------------------------------------------


def test_a_snapshot_that_is_deleted_during_its_restore_is_not_restored() -> None:
    """A deletion that was sent before lands between the restore's read of the manifest and its commit. An entry that
    names this snapshot could not be applied by any replica."""

    async def life(world: World) -> None:
        leader = await started(world)
        await leader.archive.save("before")
        prefix = world.keys.snapshots

        def delete() -> None:
            world.server.store.delete(pb.DeleteRangeRequest(key=prefix.encode(), range_end=prefix_end(prefix)))

        before_commit(world, lambda entry: entry.commands[0].restore is not None, delete)
        command = await world.restore(snapshot="before")
        assert command.refused is not None, command
        assert "snapshot.restore" not in names(world)
        await world.settle()

    play(life, settings=SETTINGS)


def test_a_configuration_that_was_replaced_is_not_adopted() -> None:
    """Another one is applied just before the commit that adopts it: that one is adopted instead."""

    async def life(world: World) -> None:
        await started(world)
        key, applied = world.keys.config_current, asyncio.Event()

        def replace_it() -> None:
            found = world.server.store.range(pb.RangeRequest(key=key.encode())).kvs[0].value
            put(world, key, found.replace(b'"version":2', b'"version":3'))
            applied.set()

        before_commit(world, lambda entry: entry.commands[0].config is not None, replace_it)
        await world.configure(3, "blue")
        await applied.wait()
        await asyncio.sleep(3.0)
        records = judge.history_of(world.server, world.keys).records
        assert [record.config.version for record in records if record.config is not None] == [1, 3]
        await world.settle()

    play(life, settings=SETTINGS)


def test_an_action_that_begins_just_before_it_expires_is_kept() -> None:
    """The node's record lands between the leader's read of it and the commit that closes the action."""

    async def life(world: World) -> None:
        await started(world)
        command = await world.command("act", {"node": "n1", "expires_s": 0.5})
        begun = ActionResult(index=command.index, name="restart", state="started", nonce="n", boot="b", started=1.0)
        acted = Acted(node="n1", epoch=1, floor=command.index, results=(begun,))
        before_commit(
            world, lambda entry: entry.commands[0].name == "action.done",
            lambda: put(world, world.keys.acted_of("n1"), acted.encode()),
        )  # fmt: skip
        await asyncio.sleep(5.0)
        assert "action.done" not in names(world)
        leading = await world.serving()
        assert leading.parts.replica.state.actions["n1"][0].index == command.index
        await world.settle()

    play(life, settings=SETTINGS)


def test_memory_that_differs_from_the_journal_is_not_committed() -> None:
    """Whatever the reason for the difference, it ends the term, and the next one reads the journal again."""

    async def life(world: World) -> None:
        await started(world)
        pc = await world.serving()
        pc.parts.replica.state.index += 1
        outcome = await submit(pc, "other", "append", {"path": "lists/0", "item": "b"})
        assert outcome.error is not None, outcome
        pc.crash()
        await world.start("m1", "m2")
        await world.settle()

    play(life, settings=SETTINGS)


def test_a_command_that_was_not_committed_leaves_no_specs() -> None:
    """Its spec is derived anew when it is repeated. Otherwise it would seem unchanged, and would not be written."""

    async def life(world: World) -> None:
        await started(world)
        world.fate = partial(puts_have, REFUSED, world.keys.head)
        pc = await world.serving()
        outcome = await submit(pc, "first", "put", {"path": "nodes/n1", "document": {"x": 1}})
        assert outcome.error is not None, outcome
        world.fate = no_fault
        done = await world.command("put", {"path": "nodes/n1", "document": {"x": 1}})
        assert (await world.serving()).parts.replica.state.specs["n1"].generation == done.index
        await world.settle()

    play(life, settings=SETTINGS)


# --- answers ---------------------------------------------------------------------------------------------------------


async def submit(pc: Pc, command_id: str, name: str, args: dict[str, Any]) -> CommandOutcome:
    assert pc.leader is not None
    (outcome,) = await pc.leader.submit([CommandRequest(command_id, name, args, "client", 0)])
    return outcome


ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("new", "append", {"path": "lists/0", "item": "b"}),
    ("refused", "refuse", {"path": "lists/0"}),
    ("unknown", "no-such-command", {}),
    ("cmd-1", "append", {"path": "lists/0", "item": "a"}),
]
"""A command that commits, two that are refused, and a repeat. The last three write nothing."""


@pytest.mark.parametrize(("command_id", "name", "args"), ASKED, ids=[name for name, _, _ in ASKED])
def test_a_deposed_leader_answers_nothing(command_id: str, name: str, args: dict[str, Any]) -> None:
    """Not even a refusal or a repeat: it might answer from a state that is no longer the present one."""

    async def life(world: World) -> None:
        await started(world)
        pc = await world.serving()
        pc.link.set(up=Mode.HOLD, down=Mode.HOLD)
        asked = asyncio.ensure_future(submit(pc, command_id, name, args))
        await world.switchover()
        await asyncio.sleep(0.2)
        assert not asked.done(), asked
        pc.link.forward()
        try:
            outcome = await asked
        except LeadershipLost:
            return
        assert isinstance(outcome.error, NodectlError), outcome
        assert outcome.error.code in ("leadership_lost", "outcome_unknown", "not_leader"), outcome

    play(life, settings=SETTINGS, judged=False)


def test_a_read_waits_for_what_its_leader_has_committed_without_knowing() -> None:
    """The reply of a commit is lost. A linearizable read that comes then is answered when memory holds that commit."""

    async def life(world: World) -> None:
        await started(world)
        pc = await world.serving()
        index = pc.parts.replica.index
        world.fate = partial(puts_have, UNHEARD, world.keys.head)
        asked = asyncio.ensure_future(submit(pc, "new", "append", {"path": "lists/0", "item": "b"}))
        await asyncio.sleep(0.1)
        assert pc.parts.replica.index == index
        reading = asyncio.ensure_future(_read_index(pc))
        await asyncio.sleep(0.05)
        world.fate = no_fault
        assert await reading > index
        await asked
        await world.settle()

    play(life, settings=SETTINGS, judged=False)


async def _read_index(pc: Pc) -> int:
    assert pc.leader is not None
    await pc.leader.confirm_read()
    return pc.parts.replica.index


# --- takeovers -------------------------------------------------------------------------------------------------------


def _terms(world: World) -> list[TermRecord]:
    keys = judge.history_of(world.server, world.keys).keys
    return [decode(TermRecord, value, key) for key, value in keys.items() if key.startswith(world.keys.terms)]


def test_a_takeover_whose_replies_are_lost_is_claimed() -> None:
    """The masterd finds its own nonce in `leader` and leads in that term; it begins no second one."""

    async def life(world: World) -> None:
        world.fate = partial(puts_have, UNHEARD, world.keys.leader)
        await world.start("m1")
        await world.until(lambda: len(_terms(world)) == 1, "the takeover lands")
        await asyncio.sleep(3.0)  # the attempt has ended without a reply
        world.fate = no_fault
        await world.serving()
        await world.command("append", {"path": "lists/0", "item": "a"})
        assert len(_terms(world)) == 1
        await world.settle()

    play(life, settings=SETTINGS)


def test_after_a_recovery_the_masterds_that_run_lead_in_the_new_epoch() -> None:
    """They have read the epoch before. The takeover that compares the former one fails; the next one must not."""

    async def life(world: World) -> None:
        await started(world)
        await world.begin_epoch(2)
        await world.until(partial(_leads_in, world, 2), "a leader serves in epoch 2")
        await world.command("append", {"path": "lists/0", "item": "b"})

    play(life, settings=SETTINGS, judged=False)


def _leads_in(world: World, epoch: int) -> bool:
    return (
        world.leader is not None and world.leader.leader is not None and (world.leader.leader.fence.term.epoch == epoch)
    )
