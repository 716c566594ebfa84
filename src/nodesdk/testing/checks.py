"""Checks whether an application keeps its contract while it goes through a scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from masterd.state_machine.batch import Batch, CommandRequest
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from nodesdk.application import (
    Application,
    Command,
    HasDocumentNodes,
    HasNodeDocuments,
    HearsConfig,
    HearsNodes,
    Transaction,
    View,
)
from nodesdk.errors import NodectlError
from nodesdk.json_types import Json
from nodesdk.models import Inventory, Spec
from nodesdk.testing.harness import AppHarness, record_of
from nodesdk.testing.nonconformance import AppNonconformance
from nodesdk.testing.watch import IMPURE, WAITING, CallWatch
from nodestore.schema.models import CommandRecord, Entry
from nodestore.support.json_rules import checked_copy

QUICK_S = 0.002
_ROUNDS = 5

Scenario = Callable[[AppHarness], object]


@dataclass(frozen=True)
class AppCheckResult:
    """The result of one check. check: the rule, as a sentence. detail: how it is broken, "" if it holds."""

    check: str
    verdict: Literal["ok", "failed"]
    detail: str = ""


def check_app(
    app: Application | type[Application],
    scenario: Scenario,
    inventory: Inventory | Mapping[str, Any] | Iterable[str] | None = None,
    *,
    quick_s: float = QUICK_S,
) -> None:
    """Raises AppNonconformance (an AssertionError) that lists every rule which the application breaks.

    scenario: runs commands, node changes and configurations on the harness that it gets. The more of the application
    it runs, the more is checked. An error that it raises is not caught. quick_s: the time limit of a `quick` command in
    this check, in seconds.
    """
    broken = [result for result in examine_app(app, scenario, inventory, quick_s=quick_s) if result.verdict == "failed"]
    if broken:
        raise AppNonconformance("\n".join(f"{result.check}: {result.detail}" for result in broken))


def examine_app(
    app: Application | type[Application],
    scenario: Scenario,
    inventory: Inventory | Mapping[str, Any] | Iterable[str] | None = None,
    *,
    quick_s: float = QUICK_S,
) -> list[AppCheckResult]:
    """Like `check_app`; returns the result of every check."""
    watched = _Watched(app() if isinstance(app, type) else app)
    harness = AppHarness(watched, inventory)
    scenario(harness)
    steps = _Steps(watched, [record_of(fields) for fields in harness.journal])
    checks: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("handlers neither wait nor do I/O", lambda: iter(sorted(watched.waiting))),
        ("results are JSON", lambda: iter(watched.not_json)),
        ("handlers raise only refusals", lambda: iter(watched.faults)),
        ("a new leader has the same state and specs", lambda: _failover(harness)),
        ("desired gives the same spec for the same documents", steps.check_pure),
        ("desired reads no clock, no random numbers and no files", lambda: iter(sorted(steps.impure()))),
        (f"quick commands end within {quick_s * 1000:g} ms", lambda: steps.slow(quick_s)),
    )
    found = [(rule, next(check(), "")) for rule, check in checks]
    return [AppCheckResult(rule, "failed" if detail else "ok", detail) for rule, detail in found]


def _failover(harness: AppHarness) -> Iterator[str]:
    try:
        harness.failover()
    except AppNonconformance as broken:
        yield str(broken)


class _Watched:
    """The application, with handlers that are watched while they run."""

    def __init__(self, app: Application) -> None:
        self.app, self.name = app, app.name
        self.waiting: set[str] = set()
        self.not_json: list[str] = []
        self.faults: list[str] = []
        # Not by __getattr__: from Python 3.12 on, isinstance with a protocol ignores what only __getattr__ provides.
        if isinstance(app, HearsNodes):
            self.node_changed = app.node_changed
        if isinstance(app, HearsConfig):
            self.config_changed = app.config_changed
        if isinstance(app, HasNodeDocuments):
            self.node_document = app.node_document
        if isinstance(app, HasDocumentNodes):
            self.document_nodes = app.document_nodes

    def commands(self) -> Mapping[str, Command]:
        offered = self.app.commands()
        return {name: replace(command, handler=self._handler(name, command)) for name, command in offered.items()}

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        return self.app.desired(config, view, node)

    def _handler(self, name: str, command: Command) -> Callable[[Transaction, Any], Json]:
        def handle(transaction: Transaction, arguments: Any) -> Json:
            with CallWatch(WAITING) as watch:
                try:
                    result = command.handler(transaction, arguments)
                except NodectlError:
                    raise
                except Exception as error:
                    self.faults.append(f"{name} raised {error!r}")
                    raise
                finally:
                    self.waiting |= {f"{name} calls {call}" for call in watch.found}
            self._check_json(name, result)
            return result

        return handle

    def _check_json(self, name: str, result: Json) -> None:
        try:
            checked_copy(result, f"the result of {name}")
        except NodectlError as error:
            self.not_json.append(str(error))


class _Steps:
    """Replays the journal of a scenario, one command at a time."""

    def __init__(self, app: _Watched, records: list[CommandRecord]) -> None:
        self._app, self._records = app.app, records

    def _states(self) -> Iterator[tuple[State, CommandRecord]]:
        """Yield the state after each command, with the command. It is one State object, which the next step changes."""
        state = State()
        for record in self._records:
            state.apply(Entry(epoch=1, term=1, nonce="test", commands=(record,)))
            yield state, record

    def _derive(self, state: State) -> Batch:
        """Return a batch in which all specs of the state are derived anew."""
        batch = Batch(state, self._app, SpecDeriver(self._app), state.time)
        batch.rebuild_specs()
        return batch

    def check_pure(self) -> Iterator[str]:
        """Yield the commands after which the specs, all derived anew, differ from the recorded ones.

        The recorded specs were derived when the scenario ran: after each command, only those that its changes affect.
        """
        for state, record in self._states():
            before = state.inventory.model_dump()
            different = self._derive(state).differing_nodes()
            if different:
                yield f"after {record.name} (index {record.index}) the spec of {different[0]} differs"
            if state.inventory.model_dump() != before:
                yield f"after {record.name} (index {record.index}) it changed the configuration in place"

    def impure(self) -> set[str]:
        """The forbidden calls that `desired` makes."""
        with CallWatch(WAITING, IMPURE) as watch:
            for state, _ in self._states():
                self._derive(state)
        return {f"it calls {call}" for call in watch.found}

    def slow(self, limit_s: float) -> Iterator[str]:
        """Yield the quick commands whose fastest of five runs, `desired` included, takes longer than `limit_s`."""
        offered = self._app.commands()
        quick = {name for name, command in offered.items() if command.quick}
        state = State()
        for record in self._records:
            if record.name in quick:
                took_s = min(self._time(state, record) for _ in range(_ROUNDS))
                if took_s > limit_s:
                    yield f"{record.name} (index {record.index}) takes {took_s * 1000:.1f} ms"
            state.apply(Entry(epoch=1, term=1, nonce="test", commands=(record,)))

    def _time(self, state: State, record: CommandRecord) -> float:
        batch = self._derive(state)
        began = time.perf_counter()
        batch.execute(CommandRequest(f"again-{record.id}", record.name, record.args, record.actor))
        return time.perf_counter() - began
