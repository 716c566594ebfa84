"""Applies all checkers to a simulated run: those for runs on real hosts, and those of the simulation's own judge."""

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
from tests.simulation.world import Asked, ClientCommand, World

SIMULATED = "simulation: "
_ON_DOCUMENTS = ("append", "put", "delete", "read")


def verdicts(world: World) -> dict[str, list[str]]:
    """What each checker found wrong after the cluster has settled; checkers that found nothing are absent.

    The name of a checker that exists only in the simulation begins with SIMULATED.
    """
    history = judge.history_of(world.server, world.keys)
    state = judge.fold(history)
    shared = history_checks.judged(recording(world), final_store.final_of(world.keys, history.keys.items()))
    shared.setdefault("linearizable", []).extend(linearizability(world))
    if not world.nodes:
        shared.pop("nodes", None)
    own = {
        "exactly once": judge.lost_or_doubled(history, world.commands),
        "no gap, no fork": judge.gaps_and_forks(world.keys, history),
        "deposed leaders": judge.writes_of_the_deposed(history),
        "results": judge.wrong_results(history),
        "reads": [*judge.wrong_reads(history, world.reads), *judge.stale_reads(world.commands, world.reads)],
        "views": judge.views_that_differ(world.keys, history, state),
        "replicas": judge.replicas_that_differ(world, state),
        "programs": world.program_errors,
    }
    found = shared | {f"{SIMULATED}{name}": lines for name, lines in own.items()}
    return {name: lines for name, lines in found.items() if lines}


def problems(world: World) -> list[str]:
    """The verdicts as lines."""
    return [f"{name}: {line}" for name, lines in verdicts(world).items() for line in lines]


# --- histories -------------------------------------------------------------------------------------------------------


def watched(world: World) -> list[Event]:
    """The store's log, as a watch from the first revision shows it. Revisions serve as times."""
    events: list[Event] = []
    now = 0.0

    def record(process: str, op: str, **fields: Any) -> None:
        events.append(Event(now, process, "seen", None, op, fields))

    watch = WatchRecorder(record, world.keys)
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
    """The history that a run on hosts would have recorded: events of the watch, the nodes, the readers and clients."""
    calls: list[Event] = []
    sent: list[ClientCommand | Asked] = [*world.commands, *world.asked]
    for number, call in enumerate(sorted(sent, key=lambda call: call.sent), start=1):
        op = "command" if isinstance(call, ClientCommand) else "outcome"
        calls.append(Event(call.sent, "client", "invoke", number, op, {"id": call.id}))
        end, ended, answer = _end(call) if isinstance(call, ClientCommand) else _answer(call)
        if ended < math.inf:
            calls.append(Event(ended, "client", end, number, "", answer))
    return [*watched(world), *world.events, *sorted(calls, key=lambda event: (event.at, event.type != "invoke"))]


def _end(command: ClientCommand) -> tuple[End, float, dict[str, Any]]:
    """How the call ended, when, and with which fields."""
    if command.index and command.ended is not None:
        return "ok", command.ended, {"index": command.index}
    if command.refused is not None and command.ended is not None:
        return "fail", command.ended, {}
    return "unknown", math.inf, {}


def _settled(command: ClientCommand, asked: Asked | None) -> tuple[End, float, dict[str, Any]]:
    """The end of the call and its result, if need be by the answer to the question for its outcome."""
    end, ended, _ = _end(command)
    if end != "unknown" or asked is None:
        return end, ended, {"result": command.result} if end == "ok" else {}
    return ("ok", asked.ended, {"result": asked.result}) if asked.took_effect else ("fail", asked.ended, {})


def _answer(asked: Asked) -> tuple[End, float, dict[str, Any]]:
    return "ok", asked.ended, {"took_effect": asked.took_effect, "index": asked.index}


# --- single documents ------------------------------------------------------------------------------------------------


def linearizability(world: World) -> list[str]:
    """Violations of linearizability, for each document by itself.

    Empty if a snapshot was restored, as a restore changes all documents.
    """
    if any(command.name == SNAPSHOT_RESTORE for command in world.commands):
        return []
    by_path: dict[str, list[Call]] = {}
    answers = {asked.id: asked for asked in world.asked}
    for command in world.commands:
        if command.name in _ON_DOCUMENTS:
            end, ended, result = _settled(command, answers.get(command.id))
            by_path.setdefault(command.args["path"], []).append(
                Call("client", command.name, command.sent, ended, end, command.args, result)
            )
    for path, calls in by_path.items():
        for read in world.reads:
            result = {"value": read.documents.get(path)}
            calls.append(Call("reader", "read", read.sent, read.ended, "ok", {"path": path}, result))
        calls.sort(key=lambda call: call.invoked)
    return linearizable.violations({path: linearizable.check(calls, step) for path, calls in sorted(by_path.items())})


def step(state: State, call: Call) -> State | None:
    """The document after a command of the simulated application or a read; None if its result is impossible."""
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
