"""Every write and every deletion of what leaders alone write, transaction by transaction, against who led just then.

What names its term must name the one in force. What names none (a document's view, `applied`, `head`, a snapshot, a
deletion) must come while somebody leads, and must be what the journal makes of it at that revision: a deposed leader's
would be older. A truncation goes no further than the older of the two newest snapshots, nor than the views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.faults.checkers.findings import Findings
from tests.faults.checkers.fold import Journal, read_entry
from tests.faults.checkers.history import Event, HistoryError
from tests.faults.checkers.watched import MANIFEST, OWN

WATCHED = ("term", "vacant", "entry", "wrote", "deleted")


def fields(event: Event, *names: str) -> Mapping[str, Any]:
    """Those of an event. HistoryError when some are missing: a judge that lacks something says so."""
    missing = [name for name in names if name not in event.fields]
    if missing:
        raise HistoryError(f"{event.op} of {event.process} at {event.at} lacks {', '.join(missing)}")
    return event.fields


class Writes:
    """`see` takes the watch's events in their order; `end` when there are no more."""

    def __init__(self, journal: Journal) -> None:
        self.findings = Findings()
        self.terms: set[tuple[int, int]] = set()
        """All that were ever won."""
        self.truncations: list[tuple[float, int]] = []
        """When the watch told of each, and up to which index."""
        self._journal = journal
        self._leader: tuple[int, int, str] | None = None  # epoch, term, nonce
        self._revision = 0
        self._group: list[Event] = []
        self._base = 0
        self._manifests: dict[str, int] = {}
        self._writers: dict[str, tuple[int, int, str]] = {}  # of snapshots: some hundreds in a long run

    def see(self, event: Event) -> None:
        name = "mod_revision" if event.op == "entry" else "revision"
        revision = fields(event, name)[name]
        if revision != self._revision:
            self.end()
            if revision < self._revision:
                self.findings.add(f"the watch told of revision {revision} after {self._revision}")
            self._revision = revision
        self._group.append(event)

    def end(self) -> None:
        """All of the last transaction has been told."""
        group, self._group = self._group, []
        if not group:
            return
        before, after = self._leader, self._change(group)
        entries = [event for event in group if event.op == "entry"]
        for event in entries:
            self._entry(event)
        for event in group:
            if event.op in ("entry", "wrote", "deleted"):
                self._fenced(event, before, after)
            if event.op == "wrote" and not (entries and self._is_restored(event.fields["key"])):
                self._wrote(event)
            elif event.op == "deleted":
                self._deleted(event)
        cut = [_index(event) for event in group if event.op == "deleted" and event.fields["key"].startswith("journal/")]
        if cut:
            self.truncations.append((group[0].at, max(cut)))
        if entries and not any(event.op == "wrote" and event.fields["key"] == "head" for event in group):
            self.findings.add(f"{entries[0].fields['key']} was written without head")
        self._leader = after

    def _change(self, group: Sequence[Event]) -> tuple[int, int, str] | None:
        """Who leads after this transaction."""
        leader = self._leader
        for event in group:
            if event.op == "term":
                of = fields(event, "epoch", "revision", "nonce", "id")
                leader = (of["epoch"], of["revision"], of["nonce"])
                self.terms.add(leader[:2])
            elif event.op == "vacant":
                leader = None
        return leader

    def _fenced(self, event: Event, before: tuple[int, int, str] | None, after: tuple[int, int, str] | None) -> None:
        of, did = event.fields, "deleted" if event.op == "deleted" else "written"
        key, wrong = of["key"], self.findings.add
        if not key.startswith(OWN):
            raise HistoryError(f"{key} is not a leader's")
        if before is None:
            wrong(f"{key} was {did} at revision {self._revision}, while nobody led")
            return
        if event.op == "deleted":
            return
        term = of.get("term")
        if term is not None and term != before[1]:
            wrong(f"{key} was written by term {term} while {before[1]} was in force")
        if of.get("epoch", before[0]) != before[0]:
            wrong(f"{key} was written in epoch {of['epoch']} while {before[0]} was in force")
        if key.startswith("terms/") and of.get("nonce") not in (before[2], after[2] if after else before[2]):
            wrong(f"{key} was written while the attempt {before[2]} led")

    def _entry(self, event: Event) -> None:
        of = fields(event, "key", "value", "create_revision", "mod_revision")
        entry = read_entry(of["value"])
        if entry is None:
            self.findings.add(f"{of['key']} is no entry")
            return
        in_force = self._leader[1] if self._leader else 0
        if self._leader and entry["term"] != in_force:
            self.findings.add(f"{of['key']} was written by term {entry['term']} while {in_force} was in force")
        self._journal.take(of["key"], entry, of["create_revision"], of["mod_revision"])

    # --- what names no term ---

    def _wrote(self, event: Event) -> None:
        of = event.fields
        kind, _, name = of["key"].partition("/")
        wrong, last = self.findings.add, self._journal.last
        if of.get("garbage"):
            wrong(f"{of['key']} holds garbage")
        elif kind in ("head", "applied") and of["index"] != last:
            wrong(f"{kind} was put at {of['index']}, the journal was at {last}")
        elif kind == "applied":
            if of["base"] < self._base:
                wrong(f"applied was put back, from {self._base} to {of['base']}")
            self._base = max(self._base, of["base"])
        elif kind == "state":
            self._view(of["key"], (of["index"], of["hash"]), self._journal.fold.documents.get(name))
        elif kind == "desired":
            self._view(of["key"], (of["generation"], of["hash"]), self._journal.fold.specs.get(name))
        elif kind == "snapshots":
            self._snapshot(of, name.partition("/")[0])

    def _is_restored(self, key: str) -> bool:
        """An entry that restores a snapshot puts its manifest once more, so that nobody deletes it meanwhile."""
        return key.endswith(MANIFEST) and key.split("/")[1] in self._manifests

    def _view(self, key: str, found: tuple[int, str], wanted: tuple[int, str] | None) -> None:
        if self._journal.fold.known and found != wanted:
            self.findings.add(f"{key} was put as of index {found[0]}, the journal made it as of {wanted}")

    def _snapshot(self, of: Mapping[str, Any], name: str) -> None:
        by = self._leader
        if by is not None and self._writers.setdefault(name, by) != by:
            self.findings.add(f"snapshot {name} was begun by term {self._writers[name][1]}, and written on by {by[1]}")
        if "index" in of:
            self._manifests[name] = of["index"]

    def _deleted(self, event: Event) -> None:
        key = event.fields["key"]
        kind, _, name = key.partition("/")
        fold = self._journal.fold
        if kind == "journal":
            self._truncated(key, _index(event))
        elif kind in ("state", "desired") and fold.known:
            if name in (fold.documents if kind == "state" else fold.specs):
                self.findings.add(f"{key} was deleted, the journal has it")
        elif kind in ("head", "applied"):
            self.findings.add(f"{key} was deleted")
        elif kind == "snapshots" and key.endswith(MANIFEST):
            self._manifests.pop(name.partition("/")[0], None)

    def _truncated(self, key: str, index: int) -> None:
        newest = sorted(self._manifests.values(), reverse=True)
        allowed = min(newest[1] if len(newest) > 1 else 0, self._base)
        if index > allowed:
            self.findings.add(f"{key} was deleted; no more than {allowed} is in two snapshots and the views")


def _index(event: Event) -> int:
    """Of an entry, by its key."""
    return int(event.fields["key"].rpartition("/")[2])
