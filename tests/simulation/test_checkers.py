"""Each checker of a simulated run detects its kind of violation: a correct run is tampered with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from nodestore.etcd.session import op_delete, op_put
from nodestore.schema.models import Desired, Entry, Head, decode
from nodestore.support.jsonio import loads
from tests.simulation.checkers import SIMULATED, verdicts
from tests.simulation.runs import good_run
from tests.simulation.world import ClientCommand, World
from tests.support.fakes.clock import VirtualTime

Tamper = Callable[[World], Coroutine[Any, Any, None]]


def _last(world: World, name: str) -> ClientCommand:
    return [command for command in world.commands if command.name == name][-1]


async def _entry(world: World, **changes: Any) -> None:
    """Put the newest entry again with changed fields."""
    key = max(key for key in _keys(world) if key.startswith(world.keys.journal))
    entry = decode(Entry, (await _value(world, key)), key).model_copy(update=changes)
    await world.witness.put(key, entry.encode())


def _keys(world: World) -> set[str]:
    return {event.kv.key.decode() for _, events in world.server.store.log for event in events}


async def _value(world: World, key: str) -> bytes:
    found = await world.witness.get(key)
    assert found is not None, key
    return found.value


# --- violations --------------------------------------------------------------------------------------------


async def a_result_that_fits_no_order(world: World) -> None:
    _last(world, "put").result = {"before": {"x": 77}}


async def an_acknowledgement_of_nothing(world: World) -> None:
    world.commands.append(replace(_last(world, "append"), id="cmd-lost"))


async def an_acknowledgement_against_time(world: World) -> None:
    first = world.commands[0]
    first.sent = first.ended = asyncio.get_running_loop().time()
    world.commands[1].ended, world.commands[1].sent = 0.0, 0.0
    first.sent += 1.0
    first.ended = first.sent + 1.0


async def an_entry_put_twice(world: World) -> None:
    await _entry(world)


async def a_head_beyond_the_journal(world: World) -> None:
    await world.witness.put(world.keys.head, Head(index=999, nonce="x").encode())


async def an_attempt_that_wins_twice(world: World) -> None:
    leader = await _value(world, world.keys.leader)
    record = world.keys.term(loads(leader)["nonce"])
    await world.witness.txn([], [op_put(world.keys.leader, leader), op_put(record, await _value(world, record))])


async def an_order_of_the_deposed(world: World) -> None:
    """Put the first desired state of n1 again, and then the correct one."""
    key = world.keys.desired_of("n1")
    now, first = await _value(world, key), world.nodes["n1"].orders_written()[0]
    old = next(event.kv.value for at, events in world.server.store.log if at == first for event in events
               if event.kv.key == key.encode())  # fmt: skip
    await world.witness.put(key, old)
    await world.witness.put(key, now)


async def an_entry_of_another_term(world: World) -> None:
    await _entry(world, term=3)


async def an_event_that_was_not_received(world: World) -> None:
    received = [event for event in world.events if event.op == "event"]
    world.events.remove(received[len(received) // 2])


async def an_event_that_was_received_twice(world: World) -> None:
    world.events.append([event for event in world.events if event.op == "event"][-1])


async def a_node_that_obeyed_an_older_order(world: World) -> None:
    obeyed = [event for event in world.events if event.op == "obeyed" and event.process == "n1's driver"]
    world.events.append(obeyed[0])


async def a_node_that_has_not_converged(world: World) -> None:
    key = world.keys.status_of("n1")
    await world.nodes["n1"].end()
    await world.witness.put(key, (await _value(world, key)).replace(b'"ready"', b'"failed"'))


async def a_recorded_result_that_cannot_be(world: World) -> None:
    key = max(key for key in _keys(world) if key.startswith(world.keys.journal))
    entry = decode(Entry, await _value(world, key), key)
    commands = tuple(record.model_copy(update={"result": {"place": 77}}) for record in entry.commands)
    await _entry(world, commands=commands)


async def a_read_of_what_never_was(world: World) -> None:
    world.reads[-1].documents["lists/0"] = {"items": ["never"]}


async def a_read_of_the_past(world: World) -> None:
    world.reads.append(replace(world.reads[0], sent=world.reads[-1].sent, ended=world.reads[-1].ended))


async def a_view_that_is_gone(world: World) -> None:
    await world.witness.txn([], [op_delete(f"{world.keys.state}lists/0")])


async def a_replica_with_another_document(world: World) -> None:
    del world.running["m1"].parts.replica.state.documents["lists/0"]


async def a_program_that_ended(world: World) -> None:
    await world.nodes["n1"].end()
    world.program_errors.append("noded n1 ended unexpectedly")


async def a_document_of_the_deposed(world: World) -> None:
    """Put an older document and then the correct one; documents name no term."""
    key = f"{world.keys.state}lists/0"
    values = [
        event.kv.value for _, events in world.server.store.log for event in events if event.kv.key == key.encode()
    ]
    await world.witness.put(key, values[0])
    await world.witness.put(key, values[-1])


async def an_order_that_was_withdrawn_and_put_again(world: World) -> None:
    key = world.keys.desired_of("n1")
    now = await _value(world, key)
    await world.witness.txn([], [op_delete(key)])
    await world.witness.put(key, now)


async def a_spec_that_is_another(world: World) -> None:
    """Put another spec with the correct generation."""
    key = world.keys.desired_of("n1")
    desired = decode(Desired, await _value(world, key), key)
    spec = desired.spec.model_copy(update={"document": {"x": 77}})
    await world.witness.put(key, desired.model_copy(update={"spec": spec}).encode())


async def a_truncation_too_far(world: World) -> None:
    """Delete all entries but the newest, beyond what two snapshots hold; the recorded history has them all."""
    newest = max(key for key in _keys(world) if key.startswith(world.keys.journal))
    await world.witness.txn([], [op_delete(world.keys.journal, end=newest.encode())])


async def a_write_while_nobody_leads(world: World) -> None:
    leader = await _value(world, world.keys.leader)
    await world.witness.txn([], [op_delete(world.keys.leader)])
    key = world.keys.head
    await world.witness.put(key, await _value(world, key))
    await world.witness.put(world.keys.leader, leader)


TAMPERED: list[tuple[Tamper, str]] = [
    (a_result_that_fits_no_order, "linearizable"),
    (a_document_of_the_deposed, "deposed leaders"),
    (an_order_that_was_withdrawn_and_put_again, "deposed leaders"),
    (a_spec_that_is_another, "deposed leaders"),
    (a_spec_that_is_another, "views"),
    (a_truncation_too_far, "deposed leaders"),
    (a_truncation_too_far, "truncation"),
    (a_write_while_nobody_leads, "deposed leaders"),
    (an_acknowledgement_of_nothing, "exactly once"),
    (an_acknowledgement_against_time, "real time"),
    (an_entry_put_twice, "no gap, no fork"),
    (a_head_beyond_the_journal, "no gap, no fork"),
    (an_attempt_that_wins_twice, "terms grow"),
    (an_order_of_the_deposed, "deposed leaders"),
    (an_entry_of_another_term, "deposed leaders"),
    (an_event_that_was_not_received, "streams"),
    (an_event_that_was_received_twice, "streams"),
    (a_node_that_obeyed_an_older_order, "nodes"),
    (a_node_that_has_not_converged, "nodes"),
    (a_recorded_result_that_cannot_be, f"{SIMULATED}results"),
    (a_read_of_what_never_was, f"{SIMULATED}reads"),
    (a_read_of_the_past, f"{SIMULATED}reads"),
    (a_read_of_the_past, "linearizable"),
    (a_view_that_is_gone, "views"),
    (a_replica_with_another_document, f"{SIMULATED}replicas"),
    (a_program_that_ended, f"{SIMULATED}programs"),
]


@pytest.mark.parametrize(("tamper", "checker"), TAMPERED, ids=lambda item: getattr(item, "__name__", item))
def test_a_checker_sees_what_it_is_there_for(tamper: Tamper, checker: str) -> None:
    """No checker finds anything in the correct run, and this one finds the violation."""
    with VirtualTime() as time:
        world = World(time)
        world.run(good_run(world))
        assert verdicts(world) == {}
        world.run(tamper(world))
        found = verdicts(world)
        world.run(world.close())
    assert checker in found, found
