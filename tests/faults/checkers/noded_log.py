"""Reads the orders that a noded has obeyed from its log, for `history_checks.Obedience`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.checkers.history import Event

_OBEYS = re.compile(r" noded \S+: obeys order (\d+)\.(\d+)\.(\d+) \(epoch\.term\.generation\)$", re.MULTILINE)


def obeyed(node: str, path: Path) -> list[Event]:
    """The obeyed orders in the sequence of the log, of all nodeds that wrote to it.

    Each noded begins with a linearizable read, so it may not obey a lower order than the one before it. `at` numbers
    the orders: the times in the log are useless, as faults set the clock wrong.
    """
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    found = _OBEYS.findall(text)
    return [_event(node, number, *map(int, order)) for number, order in enumerate(found)]


def _event(node: str, number: int, epoch: int, term: int, generation: int) -> Event:
    fields = {"epoch": epoch, "term": term, "generation": generation}
    return Event(float(number), node, "seen", None, "obeyed", fields)
