"""The verdict on a run, from its recordings alone: at its end, after an interrupted run, or again later.

A run that was not completed is judged by what must hold at every moment, not by its final state.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.faults.checkers.history import HistoryError
from tests.faults.hosts.judgement import diary
from tests.faults.hosts.judgement.judging import judged

_FAULTY = re.compile(
    r"Traceback \(most recent call last\)|never retrieved|Fatal Python error"
    r"|\((?:Type|Attribute|Key|Index|Name|Value|Assertion|Runtime|Recursion|UnboundLocal|ZeroDivision)Error: "
)
"""Python's texts for an error in a program. The logs of masterd and noded have the error in brackets, no tracebacks."""
_LINES_SHOWN = 3


def judge(directory: Path, say: Callable[[str], None]) -> list[str]:
    """Return the findings; empty if there are none. `say` receives a summary of the run."""
    kept = diary.read(directory)
    if not kept.complete:
        say(f"the run ended before its time ({kept.ended}): what is recorded is judged, not what all comes to")
    wrong = [*kept.wrong, *faulty_programs(directory)]
    try:
        return [*wrong, *judged(directory, kept, say)]
    except (HistoryError, OSError) as error:
        return [*wrong, f"what is recorded cannot be read: {error}"]


def faulty_programs(directory: Path) -> list[str]:
    """Find logs, of clients as well, that show an error in a program."""
    wrong = []
    for path in [*sorted(directory.glob("*.log")), *sorted(directory.glob("log/*.log"))]:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = [(number, line) for number, line in enumerate(file, 1) if _FAULTY.search(line)]
        wrong += [f"{path.name}, line {number}: {line.strip()[:300]}" for number, line in found[:_LINES_SHOWN]]
    return wrong
