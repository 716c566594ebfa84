"""Checks every put and deletion of the leaders' keys against the term in force, transaction by transaction.

A value that names its term must name the term in force. Other writes (a view of a document, `applied`, `head`, a
snapshot, a deletion) must happen while there is a leader, and must agree with the journal at that revision: those of a
deposed leader would be older. A truncation goes no further than the older of the two newest snapshots, and than the
views.
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
    """The fields of an event. HistoryError if one of `names` is missing, as the check would be incomplete."""
    missing = [name for name in names if name not in event.fields]
    if missing:
        raise HistoryError(f"{event.op} of {event.process} at {event.at} lacks {', '.join(missing)}")
    return event.fields


class Writes:
    """Checks the writes of leaders. Call `see` with the events of the watch in order, and `end` after the last one."""

    def __init__(self, journal: Journal) -> None:
        self.findings = Findings()
        self.terms: set[tuple[int, int]] = set()
        """All terms that were won, as (epoch, revision)."""
        self.truncations: list[tuple[float, int]] = []
        """Time and last index of each truncation."""
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
        """Check the last transaction, which is complete now."""
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
        truncated = [
            _index(event) for event in group if event.op == "deleted" and event.fields["key"].startswith("journal/")
        ]
        if truncated:
            self.truncations.append((group[0].at, max(truncated)))
        if entries and not any(event.op == "wrote" and event.fields["key"] == "head" for event in group):
            self.findings.add(f"{entries[0].fields['key']} was written without head")
        self._leader = after

    def _change(self, group: Sequence[Event]) -> tuple[int, int, str] | None:
        """The leader after this transaction."""
        leader = self._leader
        for event in group:
            if event.op == "term":
                values = fields(event, "epoch", "revision", "nonce", "id")
                leader = (values["epoch"], values["revision"], values["nonce"])
                self.terms.add(leader[:2])
            elif event.op == "vacant":
                leader = None
        return leader

    def _fenced(self, event: Event, before: tuple[int, int, str] | None, after: tuple[int, int, str] | None) -> None:
        values, did = event.fields, "deleted" if event.op == "deleted" else "written"
        key, report = values["key"], self.findings.add
        if not key.startswith(OWN):
            raise HistoryError(f"{key} is not a leader's")
        if before is None:
            report(f"{key} was {did} at revision {self._revision}, while nobody led")
            return
        if event.op == "deleted":
            return
        term = values.get("term")
        if term is not None and term != before[1]:
            report(f"{key} was written by term {term} while {before[1]} was in force")
        if values.get("epoch", before[0]) != before[0]:
            report(f"{key} was written in epoch {values['epoch']} while {before[0]} was in force")
        if key.startswith("terms/") and values.get("nonce") not in (before[2], after[2] if after else before[2]):
            report(f"{key} was written while the attempt {before[2]} led")

    def _entry(self, event: Event) -> None:
        values = fields(event, "key", "value", "create_revision", "mod_revision")
        entry = read_entry(values["value"])
        if entry is None:
            self.findings.add(f"{values['key']} is no entry")
            return
        in_force = self._leader[1] if self._leader else 0
        if self._leader and entry["term"] != in_force:
            self.findings.add(f"{values['key']} was written by term {entry['term']} while {in_force} was in force")
        self._journal.take(values["key"], entry, values["create_revision"], values["mod_revision"])

    # --- writes that name no term ---

    def _wrote(self, event: Event) -> None:
        values = event.fields
        kind, _, name = values["key"].partition("/")
        report, last = self.findings.add, self._journal.last
        if values.get("garbage"):
            report(f"{values['key']} holds garbage")
        elif kind in ("head", "applied") and values["index"] != last:
            report(f"{kind} was put at {values['index']}, the journal was at {last}")
        elif kind == "applied":
            if values["base"] < self._base:
                report(f"applied was put back, from {self._base} to {values['base']}")
            self._base = max(self._base, values["base"])
        elif kind == "state":
            self._view(values["key"], (values["index"], values["hash"]), self._journal.fold.documents.get(name))
        elif kind == "desired":
            self._view(values["key"], (values["generation"], values["hash"]), self._journal.fold.specs.get(name))
        elif kind == "snapshots":
            self._snapshot(values, name.partition("/")[0])

    def _is_restored(self, key: str) -> bool:
        """Whether the put is the manifest of a snapshot that an entry restores: that commit rewrites it."""
        return key.endswith(MANIFEST) and key.split("/")[1] in self._manifests

    def _view(self, key: str, found: tuple[int, str], wanted: tuple[int, str] | None) -> None:
        if self._journal.fold.known and found != wanted:
            self.findings.add(f"{key} was put as of index {found[0]}, the journal made it as of {wanted}")

    def _snapshot(self, values: Mapping[str, Any], name: str) -> None:
        by = self._leader
        if by is not None and self._writers.setdefault(name, by) != by:
            self.findings.add(f"snapshot {name} was begun by term {self._writers[name][1]}, and written on by {by[1]}")
        if "index" in values:
            self._manifests[name] = values["index"]

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
    """The index in the key of an entry."""
    return int(event.fields["key"].rpartition("/")[2])
