"""Checks what the cluster promises its clients against acknowledged commands, the journal and the documents. Pure.

The checks return faults: sentences that each say how a promise was broken. A promise holds if it was tested and no
fault was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One command in the journal.

    `key`: the index that the key of its entry names; it must be the index of the entry's last command. `term`: (epoch,
    revision).
    """

    key: int
    index: int
    id: str
    actor: str
    term: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A command that was sent again with its id.

    `first`: the index of its first acknowledgement. `index`: that of the repeat; None if it was not acknowledged.
    """

    id: str
    first: int
    index: int | None
    repeated: bool
    error: str = ""


@dataclass(slots=True)
class Promise:
    """One promise: a row of the final table."""

    text: str
    measured: str = "not tried"
    faults: list[str] = field(default_factory=list)
    was_tested: bool = False

    @property
    def held(self) -> bool:
        return self.was_tested and not self.faults

    def judge(self, measured: str, *findings: Iterable[str]) -> None:
        """Add a measurement, and the faults found. May be called several times, once for each act that tests it."""
        self.measured = f"{self.measured}; {measured}" if self.was_tested else measured
        self.was_tested = True
        for finding in findings:
            self.faults.extend(fault for fault in finding if fault not in self.faults)


def find_journal_faults(lines: Sequence[JournalLine]) -> list[str]:
    """Find gaps, forks and decreasing terms in a journal that was read in the order of its keys."""
    faults = []
    for before, line in pairwise(lines):
        if line.index <= before.index:
            faults.append(f"the history forks: index {line.index} ({line.id}) comes after {before.index} ({before.id})")
        elif line.index != before.index + 1:
            faults.append(f"the history has a gap between {before.index} and {line.index}")
        if line.term < before.term:
            faults.append(f"index {line.index} was written in term {_term(line)}, after term {_term(before)}")
    last_of = {line.key: line.index for line in lines}
    faults += [f"the entry with key {key} ends at index {last}" for key, last in last_of.items() if key != last]
    return _first_few(faults)


def find_duplicates(lines: Sequence[JournalLine]) -> list[str]:
    """Find commands that are in the journal more than once."""
    counts = Counter(line.id for line in lines)
    return _first_few([f"command {name} took effect {count} times" for name, count in counts.items() if count > 1])


def find_lost(acknowledged: Mapping[str, int], lines: Sequence[JournalLine]) -> list[str]:
    """Find acknowledged commands (id to index) that the journal does not hold at that index."""
    found = {(line.id, line.index) for line in lines}
    missing = [(name, index) for name, index in acknowledged.items() if (name, index) not in found]
    return _first_few(
        [f"command {name}, acknowledged as index {index}, is not in the history" for name, index in missing]
    )


def find_without_effect(expected: Collection[str], documents: Collection[str]) -> list[str]:
    """Find documents that acknowledged commands wrote and that are not in the state."""
    return _first_few([f"{path} is not in the state" for path in sorted(set(expected) - set(documents))])


def find_unknown_effects(possible: Collection[str], documents: Collection[str]) -> list[str]:
    """Find documents in the state that no sent command can have written."""
    return _first_few(
        [f"{path} is in the state, and no command wrote it" for path in sorted(set(documents) - set(possible))]
    )


def find_overwritten(before: Sequence[JournalLine], after: Sequence[JournalLine]) -> list[str]:
    """Find indexes whose command has disappeared from the journal, or was replaced by another one."""
    now: dict[int, set[str]] = {}
    for line in after:
        now.setdefault(line.index, set()).add(line.id)
    changed = [line for line in before if now.get(line.index) != {line.id}]
    return _first_few(
        [f"index {line.index} was {line.id} and is now {_names(now.get(line.index, set()))}" for line in changed]
    )


def find_unrecognised(repeats: Sequence[Repeat]) -> list[str]:
    """Find repeats that were not answered with the first result."""
    faults = []
    for repeat in repeats:
        if repeat.index is None:
            faults.append(f"the repeat of {repeat.id} was not answered: {repeat.error}")
        elif not repeat.repeated or repeat.index != repeat.first:
            faults.append(f"{repeat.id} had index {repeat.first}, and its repeat ran again as index {repeat.index}")
    return _first_few(faults)


def longest_gap(times: Iterable[float], begin: float, end: float) -> float:
    """Return the longest time in seconds between `begin` and `end` without one of `times`."""
    inside = sorted({begin, *(time for time in times if begin < time < end), end})
    return max((after - before for before, after in pairwise(inside)), default=0.0)


def gap_around(times: Sequence[float], moment: float) -> tuple[float, float]:
    """Return the longest gap between two of `times` that ends after `moment`: its begin, and its length in seconds."""
    ordered = sorted(times)
    gaps = [(after - before, before) for before, after in pairwise(ordered) if after >= moment]
    length, begin = max(gaps, default=(0.0, moment))
    return begin, length


def _first_few(faults: list[str]) -> list[str]:
    """Return the first faults, and the number of the others."""
    if len(faults) <= _SHOWN_MAX + 1:
        return faults
    return [*faults[:_SHOWN_MAX], f"and {len(faults) - _SHOWN_MAX} more: {faults[-1]}"]


def _term(line: JournalLine) -> str:
    return f"{line.term[0]}.{line.term[1]}"


def _names(found: set[str]) -> str:
    return " and ".join(sorted(found)) or "nothing"
