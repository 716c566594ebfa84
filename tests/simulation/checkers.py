"""All checkers on one simulated run, by their names: those that judge real hosts, on the same kind of history, and
those of the simulation's own judge."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from masterd.execution import RESTORE
from nodestore.etcd import KV
from nodestore.etcdpb import etcd_pb2 as pb
from nodestore.models import Applied, Desired, Head, Status, decode
from tests.faults import checks, history_checks, linearizable
from tests.faults.checks import Store
from tests.faults.history import Call, End, Event
from tests.faults.linearizable import ABSENT, State, frozen
from tests.simulation import judge
from tests.simulation.app import result_by_hand
from tests.simulation.world import Told, World

_ON_DOCUMENTS = ("append", "put", "delete", "read")


def verdicts(world: World) -> dict[str, list[str]]:
    """What each checker found wrong, once the cluster has settled; only those that found something."""
    events = [*watched(world), *world.events]
    store = _store(world, events)
    commands = [_command(told) for told in world.told]
    history = judge.history_of(world.server, world.keys)
    state = judge.fold(history)
    told = max((command.index for command in world.told), default=0)
    found = {
        "linearizable": linearizability(world),
        "exactly once": [
            *history_checks.not_exactly_once(commands, store), *judge.lost_or_doubled(history, world.told),
        ],
        "real time": history_checks.acknowledged_out_of_order(commands),
        "no gap, no fork": [*checks.gaps_and_forks(store), *judge.gaps_and_forks(world.keys, history)],
        "terms grow": [*history_checks.terms_that_do_not_grow(events), *checks.terms_that_do_not_grow(store)],
        "deposed leaders": [
            *history_checks.writes_after_a_successors_first(events), *checks.writes_of_deposed_leaders(store),
            *judge.writes_of_the_deposed(history),
        ],
        "streams": history_checks.broken_streams(events, store, told),
        "nodes": history_checks.disobedient_nodes(events, store) if world.nodes else [],
        "results": judge.wrong_results(history),
        "reads": [*judge.wrong_reads(history, world.reads), *judge.stale_reads(world.told, world.reads)],
        "views": judge.views_that_differ(world.keys, history, state),
        "replicas": judge.replicas_that_differ(world, state),
        "programs": world.faults,
    }  # fmt: skip
    return {name: lines for name, lines in found.items() if lines}


def problems(world: World) -> list[str]:
    """The same, a line each."""
    return [f"{name}: {line}" for name, lines in verdicts(world).items() for line in lines]


# --- histories -------------------------------------------------------------------------------------------------------


def watched(world: World) -> list[Event]:
    """The store's own log, as a watch from its beginning on shows it."""
    events: list[Event] = []
    now = 0.0

    def seen(process: str, op: str, **fields: Any) -> None:
        events.append(Event(now, process, "seen", None, op, fields))

    watch = history_checks.Watched(seen, world.keys)
    for revision, changes in world.server.store.log:
        now = float(revision)
        for change in changes:
            if change.type == pb.Event.PUT:
                kv = change.kv
                watch.put(KV(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease))
    return events


def _store(world: World, events: list[Event]) -> Store:
    """As it is now, with all that was recorded."""
    keys = world.keys
    found = judge.history_of(world.server, keys).keys

    def under(prefix: str) -> dict[str, bytes]:
        return {key.removeprefix(prefix): raw for key, raw in found.items() if key.startswith(prefix)}

    def one(key: str) -> bytes:
        return found.get(key, b"{}")

    now = Store(
        journal=(), terms=(),
        head=decode(Head, one(keys.head), keys.head) if keys.head in found else Head(index=0, nonce=""),
        applied=decode(Applied, one(keys.applied), keys.applied) if keys.applied in found else Applied(index=0, base=0),
        state={path: json.loads(raw) for path, raw in under(keys.state).items()},
        desired={node: decode(Desired, raw, node) for node, raw in under(keys.desired).items()},
        status={node: decode(Status, raw, node) for node, raw in under(keys.status).items()},
    )  # fmt: skip
    return history_checks.recorded(events, now)


def _end(told: Told) -> tuple[End, float]:
    if told.index and told.ended is not None:
        return "ok", told.ended
    if told.refused is not None and told.ended is not None:
        return "fail", told.ended
    return "unknown", math.inf


def _command(told: Told) -> Call:
    end, ended = _end(told)
    result = {"index": told.index} if end == "ok" else {}
    return Call("client", "command", told.sent, ended, end, {"id": told.id}, result)


# --- single documents ------------------------------------------------------------------------------------------------


def linearizability(world: World) -> list[str]:
    """Of each document by itself, on what clients were told of it. Nothing, where documents were restored: that changes
    them all."""
    if any(told.name == RESTORE for told in world.told):
        return []
    by_path: dict[str, list[Call]] = {}
    for told in world.told:
        if told.name in _ON_DOCUMENTS:
            end, ended = _end(told)
            result = {"result": told.result} if end == "ok" else {}
            by_path.setdefault(told.args["path"], []).append(
                Call("client", told.name, told.sent, ended, end, told.args, result)
            )
    for path, calls in by_path.items():
        for read in world.reads:
            result = {"value": read.documents.get(path)}
            calls.append(Call("reader", "read", read.sent, read.ended, "ok", {"path": path}, result))
        calls.sort(key=lambda call: call.invoked)
    return linearizable.violations({path: linearizable.check(calls, step) for path, calls in sorted(by_path.items())})


def step(state: State, call: Call) -> State | None:
    """The document after a command of the simulated application, or a read; None: that cannot have been its result."""
    if call.op == "read":
        return linearizable.register(state, call)
    path: str = call.fields["path"]
    documents: dict[str, Any] = {} if state == ABSENT else {path: json.loads(state)}
    result = result_by_hand(documents, call.op, _fields(call.fields))
    if call.end == "ok" and result != call.result["result"]:
        return None
    return frozen(documents.get(path))


def _fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return dict(fields)
