"""Which orders a noded has obeyed, from its log, for `history_checks.disobedient_nodes`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.checkers.history import Event

_OBEYS = re.compile(r" noded \S+: obeys order (\d+)\.(\d+)\.(\d+) \(epoch\.term\.generation\)$", re.MULTILINE)


def obeyed(node: str, path: Path) -> list[Event]:
    """In their order, over all nodeds that wrote to this log: each begins with a linearizable read, so none may obey
    less than the one before it did. `at` counts them, as the log's times are of a clock that faults set wrong."""
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    found = _OBEYS.findall(text)
    return [_event(node, number, *map(int, order)) for number, order in enumerate(found)]


def _event(node: str, number: int, epoch: int, term: int, generation: int) -> Event:
    fields = {"epoch": epoch, "term": term, "generation": generation}
    return Event(float(number), node, "seen", None, "obeyed", fields)
