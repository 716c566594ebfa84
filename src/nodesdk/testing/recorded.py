"""Runs a recorded journal through an application: does a new version still do what the old one did?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masterd.state_machine.actions import ACTION_DONE, COMMON_COMMANDS
from masterd.state_machine.batch import (
    CONFIG_ADOPT,
    CONFIG_APPLICATION,
    CONFIG_RESPEC,
    RESULTS_FORGET,
    TIME_RESET,
    Batch,
    CommandRequest,
)
from masterd.state_machine.closed_ids import COMMAND_CLOSE
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from nodesdk.application import Application
from nodesdk.errors import Invalid, NodectlError
from nodesdk.testing.harness import record_of
from nodesdk.testing.nonconformance import AppNonconformance
from nodestore.schema.models import CommandRecord, Entry

_OF_MASTERD = frozenset({
    *COMMON_COMMANDS, ACTION_DONE, CONFIG_ADOPT, CONFIG_APPLICATION, CONFIG_RESPEC, COMMAND_CLOSE, RESULTS_FORGET,
    TIME_RESET, "node.changed",
})  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Where the application differs from the journal. index: of the command."""

    index: int
    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name} (index {self.index}): {self.problem}"


def check_replay(
    app: Application | type[Application], journal: Path | Iterable[Mapping[str, Any]], *, same: bool = True
) -> None:
    """Raises AppNonconformance that lists every difference; see `replay`."""
    differences = replay(app, journal, same=same)
    if differences:
        raise AppNonconformance("\n".join(map(str, differences)))


def replay(
    app: Application | type[Application], journal: Path | Iterable[Mapping[str, Any]], *, same: bool = True
) -> list[Difference]:
    """Run every recorded command of the application again, on the state that the commands before it have left.

    Returns the commands that no longer exist or are now refused, and the nodes whose spec cannot be derived.

    journal: see `read_journal`; it begins with index 1. same: also return results, writes, actions and specs that
    differ from the recorded ones. Pass False for an application that uses random numbers or was changed on purpose.
    Raises Invalid if `journal` is not a complete journal.
    """
    made = app() if isinstance(app, type) else app
    records = read_journal(journal) if isinstance(journal, Path) else _sorted(journal)
    return list(_differences(made, records, same))


def read_journal(path: Path) -> list[CommandRecord]:
    """The commands in a file, sorted by index. Raises Invalid if it is not a complete journal.

    The file holds the output of `nodectl history -o json` (a list, or one command a line), the answer of GET
    /v1/history, or journal entries.
    """
    text = path.read_text("utf-8")
    try:
        try:
            return _sorted(_flat(json.loads(text)))
        except ValueError:
            return _sorted(found for line in text.splitlines() if line.strip() for found in _flat(json.loads(line)))
    except ValueError as error:
        raise Invalid(f"{path} is not a journal: {error}") from None


def _flat(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the commands in a command, an entry, an answer of GET /v1/history, or a list of these."""
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        inner = value.get("commands", value.get("entries"))
        if inner is None:
            yield value
        else:
            yield from _flat(inner)


def _sorted(commands: Iterable[Mapping[str, Any]]) -> list[CommandRecord]:
    records = sorted((record_of(fields) for fields in commands), key=lambda record: record.index)
    if [record.index for record in records] != list(range(1, len(records) + 1)):
        raise Invalid("journal: it does not hold all commands from index 1 on")
    return records


def _differences(app: Application, records: list[CommandRecord], same: bool) -> Iterator[Difference]:
    state = State()
    for record in records:
        if record.restore is not None:
            raise Invalid(
                f"journal: the documents of snapshot {record.restore}, restored at {record.index}, are unknown"
            )
        if record.name not in _OF_MASTERD:
            for problem in _run_again(app, state, record, same):
                yield Difference(record.index, record.name, problem)
        state.apply(Entry(epoch=1, term=1, nonce="test", commands=(record,)))
        for problem in _derive_again(app, state, same):
            yield Difference(record.index, record.name, problem)


def _run_again(app: Application, state: State, record: CommandRecord, same: bool) -> Iterator[str]:
    batch = Batch(state, app, SpecDeriver(app), record.time)
    try:
        batch.rebuild_specs()
    except NodectlError:
        return  # already reported, after the previous command
    done = batch.execute(CommandRequest(f"again-{record.id}", record.name, record.args, record.actor))
    if done is None or done.error is not None:
        yield str(done.error) if done is not None else "it does not fit into an entry"
    elif same:
        (again,) = batch.records
        for what in ("result", "writes", "actions"):
            if getattr(again, what) != getattr(record, what):
                yield f"field {what!r} differs from the recorded one"


def _derive_again(app: Application, state: State, same: bool) -> Iterator[str]:
    batch = Batch(state, app, SpecDeriver(app), state.time)
    try:
        batch.rebuild_specs()
    except NodectlError as error:
        yield str(error)
        return
    if same and (nodes := batch.differing_nodes()):
        yield f"the spec of {', '.join(nodes)} differs from the recorded one"
