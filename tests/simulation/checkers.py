"""All checkers on one simulated run, by their names: those that judge real hosts, on the same kind of history, and
those of the simulation's own judge."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from masterd.state_machine.batch import SNAPSHOT_RESTORE
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import KV
from tests.faults.checkers import final_store, history_checks, linearizable
from tests.faults.checkers.history import Call, End, Event
from tests.faults.checkers.linearizable import ABSENT, State, frozen
from tests.faults.checkers.watched import WatchRecorder
from tests.simulation import judge
from tests.simulation.app import result_by_hand
from tests.simulation.world import Told, World

SIMULATED = "simulation: "
_ON_DOCUMENTS = ("append", "put", "delete", "read")


def verdicts(world: World) -> dict[str, list[str]]:
    """What each checker found wrong, once the cluster has settled; only those that found something. Those that judge
    real hosts go by the names of what they judge; those of the simulation alone have SIMULATED before theirs."""
    history = judge.history_of(world.server, world.keys)
    state = judge.fold(history)
    hosts = history_checks.judged(recording(world), final_store.final_of(world.keys, history.keys.items()))
    hosts.setdefault("linearizable", []).extend(linearizability(world))
    if not world.nodes:
        hosts.pop("nodes", None)
    own = {
        "exactly once": judge.lost_or_doubled(history, world.told),
        "no gap, no fork": judge.gaps_and_forks(world.keys, history),
        "deposed leaders": judge.writes_of_the_deposed(history),
        "results": judge.wrong_results(history),
        "reads": [*judge.wrong_reads(history, world.reads), *judge.stale_reads(world.told, world.reads)],
        "views": judge.views_that_differ(world.keys, history, state),
        "replicas": judge.replicas_that_differ(world, state),
        "programs": world.faults,
    }
    found = hosts | {f"{SIMULATED}{name}": lines for name, lines in own.items()}
    return {name: lines for name, lines in found.items() if lines}


def problems(world: World) -> list[str]:
    """The same, a line each."""
    return [f"{name}: {line}" for name, lines in verdicts(world).items() for line in lines]


# --- histories -------------------------------------------------------------------------------------------------------


def watched(world: World) -> list[Event]:
    """The store's own log, as a watch from its beginning on shows it. For times, revisions are as good."""
    events: list[Event] = []
    now = 0.0

    def seen(process: str, op: str, **fields: Any) -> None:
        events.append(Event(now, process, "seen", None, op, fields))

    watch = WatchRecorder(seen, world.keys)
    for revision, changes in world.server.store.log:
        now = float(revision)
        for change in changes:
            kv, key = change.kv, change.kv.key.decode()
            if change.type == pb.Event.PUT:
                watch.put(KV(key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease))
            else:
                watch.deleted(key, revision)
    return events


def recording(world: World) -> list[Event]:
    """What a run on hosts would have written down of this one: the watch's events, what nodes obeyed and readers heard,
    the clients' calls."""
    calls: list[Event] = []
    for number, told in enumerate(sorted(world.told, key=lambda told: told.sent), start=1):
        calls.append(Event(told.sent, "client", "invoke", number, "command", {"id": told.id}))
        end, ended = _end(told)
        if ended < math.inf:
            calls.append(Event(ended, "client", end, number, "", {"index": told.index} if end == "ok" else {}))
    return [*watched(world), *world.events, *sorted(calls, key=lambda event: (event.at, event.type != "invoke"))]


def _end(told: Told) -> tuple[End, float]:
    if told.index and told.ended is not None:
        return "ok", told.ended
    if told.refused is not None and told.ended is not None:
        return "fail", told.ended
    return "unknown", math.inf


# --- single documents ------------------------------------------------------------------------------------------------


def linearizability(world: World) -> list[str]:
    """Of each document by itself, on what clients were told of it. Nothing, where documents were restored: that changes
    them all."""
    if any(told.name == SNAPSHOT_RESTORE for told in world.told):
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
