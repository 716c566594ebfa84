"""Replays the recorded journal into a state of hashes.

The journal of hours does not fit in memory. So only the id of each command is kept, and for each document and each
node's spec the index that wrote it and a hash.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

from nodestore.errors import Garbage
from nodestore.support.jsonio import digest, loads
from tests.faults.checkers.findings import Findings

CLOSED = "command.close"
"""Name of a record that closes an id: no command used it, and none will."""

Marks = dict[str, tuple[int, str]]
"""Documents or specs by name: the index that wrote each one, and its hash."""


class Fold:
    """Documents by path, specs by node. known: False once a snapshot is restored, as the journal only names it."""

    def __init__(self, documents: Marks | None = None, specs: Marks | None = None) -> None:
        self.documents, self.specs = documents or {}, specs or {}
        self.known = True

    def take(self, command: Mapping[str, Any]) -> None:
        if command.get("restore") is not None:
            self.known = False
        for path, document in (command.get("writes") or {}).items():
            if document is None:
                self.documents.pop(path, None)
            else:
                self.documents[path] = (command["index"], digest(document))
        for node, mark in (command.get("specs") or {}).items():
            if mark is None:
                self.specs.pop(node, None)
            else:
                self.specs[node] = (mark["generation"], mark["hash"])

    def differences(self, other: Fold, what: str) -> list[str]:
        """The differences from `other`, which findings call `what`; none if either is not known."""
        if not (self.known and other.known):
            return []
        pairs = [("state/", self.documents, other.documents), ("desired/", self.specs, other.specs)]
        return [
            f"{kind}{name}: {what} has {theirs.get(name)}, the journal makes {ours.get(name)}"
            for kind, ours, theirs in pairs
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]


class Journal:
    """All entries in the order of their puts.

    on_command: called with the index and id of each command. on_closed: the same for each record that closes an id.
    """

    def __init__(self, on_command: Callable[[int, str], None], on_closed: Callable[[int, str], None]) -> None:
        self.fold = Fold()
        self.last = 0
        self.findings = Findings()
        self._on_command, self._on_closed = on_command, on_closed
        self._ids: list[str] = []  # by index, less one
        self._epochs: list[tuple[int, int]] = []  # from which index on which
        self._term = (0, 0)

    def take(self, key: str, entry: Mapping[str, Any], created: int, revision: int) -> None:
        """Add an entry, and check that indexes grow by one, no entry is put twice, and terms never decrease."""
        commands = entry["commands"]
        wrong = self.findings.add
        if created != revision:
            wrong(f"{key} was written twice")
        term = (entry["epoch"], entry["term"])
        if term < self._term:
            wrong(f"{key} is of term {term[0]}.{term[1]}, after one of term {self._term[0]}.{self._term[1]}")
        self._term = max(term, self._term)
        if int(key.rpartition("/")[2]) != commands[-1]["index"]:
            wrong(f"{key} ends at index {commands[-1]['index']}")
        for command in commands:
            if command["index"] != self.last + 1:
                wrong(f"the journal's indexes are not 1, 2, 3, ...: {key} has {command['index']} after {self.last}")
            self._add(command, entry["epoch"])

    def _add(self, command: Mapping[str, Any], epoch: int) -> None:
        index, command_id = command["index"], command["id"]
        if not self._epochs or self._epochs[-1][1] != epoch:
            self._epochs.append((index, epoch))
        if index > self.last:
            self._ids.extend([""] * (index - 1 - len(self._ids)))
            self._ids.append(command_id)
            self.last = index
        (self._on_closed if command.get("name") == CLOSED else self._on_command)(index, command_id)
        self.fold.take(command)

    def id_at(self, epoch: int, index: int) -> str | None:
        """The id of the command at an index of an epoch; None if there is none."""
        at = bisect_right(self._epochs, index, key=lambda item: item[0]) - 1
        if at < 0 or self._epochs[at][1] != epoch or not 0 < index <= len(self._ids):
            return None
        return self._ids[index - 1] or None


def read_entry(value: str) -> Mapping[str, Any] | None:
    """The entry as JSON; None if the value is not an entry."""
    try:
        entry = loads(value)
        commands = entry["commands"]
        is_complete = commands and all(isinstance(one["index"], int) and isinstance(one["id"], str) for one in commands)
        return entry if is_complete and isinstance(entry["epoch"], int) and isinstance(entry["term"], int) else None
    except (Garbage, KeyError, TypeError):
        return None
