"""Judges the recordings of a run in one pass, because a run of hours is larger than memory.

Kept in memory until the end: each command's id with its index, and the times of acknowledgements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.faults.checkers import final_store as final_store
from tests.faults.checkers import history_checks, noded_log
from tests.faults.checkers.final_store import FinalStore
from tests.faults.checkers.history import Event, lines, merged
from tests.faults.checkers.history_checks import Judge
from tests.faults.hosts.judgement import client_checks, diary, shown, store_watch


def judged(directory: Path, kept: diary.Diary, say: Callable[[str], None]) -> list[str]:
    """Return the findings. Raises HistoryError and OSError if the recordings cannot be read."""
    served, holes = client_checks.Served(kept.faults, brief=kept.brief), []
    judge = Judge(served.see)
    watched = None if kept.complete else what_was_watched(_events(directory))
    for event in _all_events(directory):
        if watched is None or watched.covers(event):
            judge.see(event)
        if event.op == "hole":
            holes.append(event)
    store = directory / diary.STORE
    final = final_store.load_final(store) if kept.complete and store.exists() else None
    broken = judge.wrong(final)
    wrong = store_watch.holes(holes) + [f"{promise}: {line}" for promise, lines in broken.items() for line in lines]
    if kept.complete and final is None:
        wrong.append("what the store had in the end was not kept")
    wrong += _by_their_logs(directory, judge, final)
    if final is not None:
        wrong += shown.not_as_desired(directory, final)
    wrong += served.wrong(kept.clients, kept.duration_s if kept.complete else None)
    wrong += client_checks.wrong_gones(judge.streams.gones, judge.writes.truncations)
    if kept.complete:
        wrong += client_checks.missing_readers(kept.readers, judge.streams.heard)
    say(_summary(judge, served, kept))
    return wrong


def _events(directory: Path) -> Iterator[Event]:
    """Yield the events that the clients and the watch of the store recorded, by time."""
    return merged(lines(path) for path in sorted(directory.glob("history*.jsonl")))


def _all_events(directory: Path) -> Iterator[Event]:
    """Yield the events of clients and store, then those of each reader of the stream."""
    return chain(_events(directory), *(lines(path) for path in sorted(directory.glob("stream-*.jsonl"))))


def _by_their_logs(directory: Path, judge: Judge, final: FinalStore | None) -> list[str]:
    """Check the orders that each noded obeyed by its log: its status shows only the latest one."""
    obedience = history_checks.Obedience()
    for path in sorted(directory.glob("log/*-noded.log")):
        for event in noded_log.obeyed(path.name.removesuffix("-noded.log"), path):
            if final is not None or (event.fields["epoch"], event.fields["term"]) in judge.writes.terms:
                obedience.see(event)
    wrong = obedience.wrong(judge.writes.terms, history_checks.generations(final))
    return [f"nodes, by their logs: {line}" for line in wrong]


def _summary(judge: Judge, served: client_checks.Served, kept: diary.Diary) -> str:
    ends, verdicts = judge.commands.ends, judge.verdicts.values()
    return (
        f"{len(kept.faults)} faults, {ends['ok']} commands acknowledged ({served.repeats} of them repeats), "
        f"{ends['unknown']} of unknown outcome, {ends['fail']} not done, {len(judge.writes.terms)} terms, "
        f"{judge.journal.last} in the journal, {sum(judge.streams.heard.values())} events heard, readers "
        f"{len(judge.streams.gones)} times behind what is kept; {sum(found.tried for found in verdicts)} orders tried "
        f"on {len(verdicts)} documents"
    )


# --- runs that were cut short ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """How far the watch of the store has recorded the journal, and which terms."""

    last: int
    terms: frozenset[int]

    def covers(self, event: Event) -> bool:
        """Return whether the event can be judged.

        Not covered: acknowledgements and stream events beyond the last recorded entry (such a call counts as without
        an end), and orders of a term that was not recorded.
        """
        if event.op == "obeyed":
            return event.fields["term"] in self.terms
        beyond = event.type in ("ok", "seen") and event.process != "watch" and event.fields.get("index", 0) > self.last
        return not beyond


def what_was_watched(events: Iterable[Event]) -> Watched:
    last, terms = 0, set()
    for event in events:
        if event.type == "seen" and event.op == "entry":
            last = max(last, int(event.fields["key"].rpartition("/")[2]))
        elif event.type == "seen" and event.op == "term":
            terms.add(event.fields["revision"])
    return Watched(last, frozenset(terms))
