"""Checks of a recorded history. `Judge` processes the events one by one, so a history may be larger than memory.

Operations and their fields. Calls, by clients:

    command     id; again: true for a repeat of an id that has ended; ok: index, and result if it is to be compared.
                fail: not run.
    outcome     id; ok: took_effect, index. The question what became of a command
    read, write, delete     key, and the fields of `linearizable.register`

Observations of an independent watch of the store, from before the first command on, in the order of revisions
(`watched`). All but `term` and `vacant` have the key, without the cluster's prefix:

    entry       value, create_revision, mod_revision     each put under journal/
    term        epoch, revision, nonce, id     each put of `leader`, with its record under terms/
    vacant      revision     a deletion of `leader`
    wrote       revision, and the fields of `watched.facts`     each other put of a key that only leaders write
    deleted     revision     each deletion of such a key

Observations of a reader of the journal's event stream (`process` names the reader, over all its reconnects):

    begin       after: the first index asked for
    event       epoch, index, id
    gone        the master asked it to read the whole state again; the next `begin` has its new position

Observations at a node (`process` is the node), or of the watch, from the node's status:

    obeyed      epoch, term, generation, nonce (of the noded)     each order that it began to apply

Memory holds the id and index of each command (about 200 bytes), and a hash of each document and spec.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nodestore.schema.models import Term
from tests.faults.checkers import final_store as final_store
from tests.faults.checkers import linearizable
from tests.faults.checkers.final_store import FinalStore
from tests.faults.checkers.findings import Findings
from tests.faults.checkers.fold import Journal
from tests.faults.checkers.history import Call, Event, Joining
from tests.faults.checkers.store_checks import nodes_behind
from tests.faults.checkers.writes import WATCHED, Writes, fields


class Commands:
    """Checks that commands take effect exactly once.

    An acknowledged command is in the journal once, at its index, and all acknowledgements of one id are equal. A failed
    command is not in the journal. A command of unknown outcome is in it at most once. No command uses a closed id. Each
    answer to a question for an outcome is what the whole journal shows.
    """

    def __init__(self) -> None:
        self.findings = Findings()
        self.acknowledged = 0
        self.ends: Counter[str] = Counter()
        self.highest = 0
        """The highest acknowledged index."""
        self._ran: dict[str, int] = {}
        """Index in the journal by id; negated once the command is acknowledged."""
        self._early: dict[str, int] = {}
        """Acknowledged index by id, of commands not yet seen in the journal."""
        self._results: dict[str, Mapping[str, Any]] = {}
        self._refused: set[str] = set()
        self._maybe: set[str] = set()
        self._closed: dict[str, int] = {}
        self._asked: list[Call] = []

    def ran(self, index: int, known: str) -> None:
        """Add a command of the journal."""
        before = self._ran.get(known)
        if before is not None:
            self.findings.add(f"command {known} took effect at {abs(before)} and at {index}")
            return
        if known in self._closed:
            self.findings.add(f"command {known} took effect at {index}, its id was closed at {self._closed[known]}")
        acknowledged = self._early.pop(known, None)
        self._ran[known] = index if acknowledged is None else -index
        if acknowledged is not None:
            self._same(known, acknowledged, index)

    def closed(self, index: int, known: str) -> None:
        """Add a record of the journal that closes an id."""
        before = self._closed.setdefault(known, index) if known not in self._ran else abs(self._ran[known])
        if before != index:
            self.findings.add(f"the id {known} was closed at {index}, and was known from {before} on")

    def asked(self, call: Call) -> None:
        """Add the answer to a question for an outcome."""
        self._asked.append(call)

    def _wrong_answers(self) -> list[str]:
        return [
            f"{call} was answered; the journal has it at {shown}"
            for call in self._asked
            if (shown := self._shown(call)) != call.result["index"]
        ]

    def _shown(self, call: Call) -> int | None:
        """The index at which the journal shows what the answer says; None if it does not."""
        known = call.fields["id"]
        if call.result["took_effect"]:
            return abs(self._ran[known]) if known in self._ran else None
        return self._closed.get(known)

    def ended(self, call: Call) -> None:
        self.ends[call.end] += 1
        known = call.fields["id"]
        if call.end == "unknown":
            self._maybe.add(known)
        elif call.end == "fail":
            self._refused.add(known)
            if self._ran.get(known, 0) < 0 or known in self._early:
                self._maybe.add(known)
        else:
            self._acknowledged(call, known)

    def _acknowledged(self, call: Call, known: str) -> None:
        index = call.result["index"]
        self.highest = max(self.highest, index)
        if known in self._refused:
            self._maybe.add(known)
        if len(call.result) > 1 and self._results.setdefault(known, call.result) != call.result:
            self.findings.add(f"{call} was told {self._results[known]} before: different things")
        at = self._ran.get(known)
        if at is None:
            if self._early.setdefault(known, index) != index:
                before = self._early[known]
                self.findings.add(f"command {known} was acknowledged as index {index}, and as index {before} before")
            return
        self._ran[known] = -abs(at)
        self._same(known, index, abs(at))

    def _same(self, known: str, acknowledged: int, index: int) -> None:
        if acknowledged != index:
            self.findings.add(
                f"command {known} was acknowledged as index {acknowledged}, the journal has it as {index}"
            )

    def wrong(self) -> list[str]:
        """The findings after the last event."""
        lost = [f"command {known} was acknowledged and is lost" for known in self._early]
        ran = sorted(known for known in self._refused - self._maybe if known in self._ran)
        return [
            *self.findings.lines,
            *lost,
            *self._wrong_answers(),
            *(f"command {known} was reported as not run, but ran" for known in ran),
        ]


class RealTime:
    """Checks that a command first sent after another was acknowledged has a higher index."""

    def __init__(self) -> None:
        self.findings = Findings()
        self._acknowledged = 0
        self._floors: dict[str, int] = {}
        """By id of a command that is not acknowledged: the highest acknowledged index when it was first sent."""

    def sent(self, known: str) -> None:
        self._floors.setdefault(known, self._acknowledged)

    def ended(self, call: Call) -> None:
        if call.end != "ok":
            return
        known, index = call.fields["id"], call.result["index"]
        floor = self._floors.pop(known, 0)
        if index <= floor:
            self.findings.add(
                f"command {known} has index {index}, and was first sent after index {floor} was acknowledged"
            )
        self._acknowledged = max(self._acknowledged, index)


class Terms:
    """Checks that terms grow, by (epoch, revision), and that no attempt wins two."""

    def __init__(self) -> None:
        self.findings = Findings()
        self._last: Term | None = None
        self._won: Counter[str] = Counter()

    def see(self, event: Event) -> None:
        values = fields(event, "epoch", "revision", "nonce", "id")
        term = Term(values["epoch"], values["revision"])
        if self._last is not None and term <= self._last:
            self.findings.add(f"term {term} after {self._last}")
        self._last = term
        self._won[values["nonce"]] += 1
        if self._won[values["nonce"]] == 2:
            self.findings.add(f"attempt {values['nonce']} won 2 terms")


class Streams:
    """Checks that each reader receives every command of the journal from its begin on, in order and once.

    That must hold whichever masters it reads from.
    """

    def __init__(self, journal: Journal) -> None:
        self.findings = Findings()
        self._journal = journal
        self.heard: Counter[str] = Counter()
        """The number of events by reader."""
        self.gones: list[Event] = []
        """The events `gone`."""
        self._at: dict[str, int | None] = {}
        self._epoch: dict[str, int] = {}
        self._early: dict[tuple[int, int, str], str] = {}
        """The reader of each event that the watch of the store has not delivered yet."""

    def see(self, event: Event) -> None:
        reader, at = event.process, self._at.get(event.process)
        if event.op == "gone":
            self.gones.append(event)
            self._at[reader] = None
        elif event.op == "begin":
            self._at[reader] = event.fields["after"] if at is None else at
        elif at is None:
            self._at.setdefault(reader, None)
            self.findings.add(f"{reader} heard index {event.fields['index']} before it began")
        else:
            self._heard(reader, at, event.fields)

    def _heard(self, reader: str, at: int, values: Mapping[str, Any]) -> None:
        epoch, index, known = values["epoch"], values["index"], values["id"]
        self.heard[reader] += 1
        if index != at + 1:
            self.findings.add(f"{reader} heard index {index} after {at}")
        if epoch < self._epoch.get(reader, 0):
            self.findings.add(f"{reader} heard epoch {epoch} after {self._epoch[reader]}")
        self._at[reader], self._epoch[reader] = index, epoch
        if index > self._journal.last:
            self._early[epoch, index, known] = reader
        else:
            self._compare(reader, epoch, index, known)

    def _compare(self, reader: str, epoch: int, index: int, known: str) -> None:
        if self._journal.id_at(epoch, index) != known:
            self.findings.add(f"{reader} heard {known} as index {index}, which the journal has not there")

    def recorded(self) -> None:
        """Check the early events that the journal includes now."""
        for epoch, index, known in [early for early in self._early if early[1] <= self._journal.last]:
            self._compare(self._early.pop((epoch, index, known)), epoch, index, known)

    def wrong(self, up_to: int | None) -> list[str]:
        """The findings after the last event. up_to: the index that each reader must have reached, if any."""
        for (epoch, index, known), reader in self._early.items():
            self._compare(reader, epoch, index, known)
        self._early.clear()
        ended = [
            f"{reader} ended at index {at}, the journal at {up_to}"
            for reader, at in sorted(self._at.items())
            if up_to is not None and (at is None or at < up_to)
        ]
        return [*self.findings.lines, *ended]


class Obedience:
    """Checks that no noded obeys a lower order than before, by (epoch, term, generation), or one of an unknown term.

    Each node must end at its desired generation. A noded that starts while etcd is unreachable may begin with an older
    order, which it has stored. Nodeds of a node are distinguished by their nonces; without nonces they count as one.
    """

    def __init__(self) -> None:
        self.findings = Findings()
        self._last: dict[str, tuple[int, int, int]] = {}
        self._nonces: dict[str, Any] = {}
        self._terms: dict[tuple[int, int], str] = {}

    def see(self, event: Event) -> None:
        node, values = event.process, event.fields
        order = (values["epoch"], values["term"], values["generation"])
        nonce = values.get("nonce")
        if self._nonces.setdefault(node, nonce) != nonce:
            self._nonces[node] = nonce
            self._last.pop(node, None)
        last = self._last.get(node, order)
        if order < last:
            self.findings.add(f"{node} obeyed {_order(order)} after {_order(last)}")
        if order[2] < 1:
            self.findings.add(f"{node} obeyed {_order(order)}: there is no such generation")
        self._terms.setdefault(order[:2], f"{node} obeyed {_order(order)}")
        self._last[node] = max(order, last)

    def wrong(self, terms: set[tuple[int, int]], generations: Mapping[str, int]) -> list[str]:
        """The findings after the last event. terms: all that were won. generations: the desired one of each node."""
        wrong = self.findings.lines
        wrong += [f"{finding}: there was no such term" for term, finding in self._terms.items() if term not in terms]
        for node, generation in generations.items():
            if node not in self._last:
                wrong.append(f"{node} never obeyed anything, and should be at {generation}")
            elif self._last[node][2] != generation:
                wrong.append(f"{node} ended at {_order(self._last[node])}, and should be at {generation}")
        return wrong


def _order(order: tuple[int, int, int]) -> str:
    return ".".join(str(part) for part in order)


class Judge:
    """All checkers of a history. Call `see` with each event, merged by time, and then `wrong`."""

    def __init__(self, hears: Callable[[Call], None] = lambda call: None) -> None:
        """hears: called with each call when it ends."""
        self.commands, self.real_time, self.terms = Commands(), RealTime(), Terms()
        self.journal = Journal(self.commands.ran, self.commands.closed)
        self.writes, self.streams, self.obedience = Writes(self.journal), Streams(self.journal), Obedience()
        self.documents = linearizable.Documents()
        self.verdicts: dict[str, linearizable.Verdict] = {}
        """The verdict on each document, set by `wrong`."""
        self._joining = Joining()
        self._hears = hears

    def see(self, event: Event) -> None:
        if event.call is not None:
            self._call(event, event.call)
        elif event.op in WATCHED:
            if event.op == "term":
                self.terms.see(event)
            self.writes.see(event)
            self.streams.recorded()
        elif event.op in ("begin", "event", "gone"):
            self.streams.see(event)
        elif event.op == "obeyed":
            self.obedience.see(event)

    def _call(self, event: Event, number: int) -> None:
        if event.type == "invoke":
            if event.op == "command" and not event.fields.get("again"):
                self.real_time.sent(event.fields["id"])
            self.documents.begin(event)
        call = self._joining.see(event)
        if call is not None:
            self._ended(number, call)

    def _ended(self, number: int, call: Call) -> None:
        if call.op == "command":
            self.commands.ended(call)
            self.real_time.ended(call)
        elif call.op == "outcome" and call.end == "ok":
            self.commands.asked(call)
        self.documents.end(number, call)
        self._hears(call)

    def wrong(self, final: FinalStore | None) -> dict[str, list[str]]:
        """The findings by checker, after the last event; checkers without findings are absent.

        final: the store at the end; None for a run that was cut short, whose end is not checked.
        """
        self.writes.end()
        self.streams.recorded()
        for number, call in self._joining.rest():
            self._ended(number, call)
        self.verdicts = self.documents.verdicts()
        found = {
            "linearizable": linearizable.violations(self.verdicts),
            "exactly once": self.commands.wrong(),
            "real time": self.real_time.findings.lines,
            "no gap, no fork": self.journal.findings.lines,
            "terms grow": self.terms.findings.lines,
            "deposed leaders": self.writes.findings.lines,
            "streams": self.streams.wrong(None if final is None else self.commands.highest),
            "nodes": self.obedience.wrong(self.writes.terms, generations(final)),
        }
        if final is not None:
            self._compare(final, found)
        return {name: lines for name, lines in found.items() if lines}

    def _compare(self, final: FinalStore, found: dict[str, list[str]]) -> None:
        head, last, fold = final.head.index if final.head else 0, self.journal.last, self.journal.fold
        if head != last:
            found["no gap, no fork"].append(f"head is at {head}, the journal ends at {last}")
        found["nodes"] += nodes_behind(final)
        found["views"] = final_store.views_that_differ(final, fold, last)
        found["truncation"] = final_store.truncated_too_far(final, fold)


def generations(final: FinalStore | None) -> dict[str, int]:
    """The desired generation of each node; empty if the final store is unknown."""
    return {} if final is None else {node: desired.generation for node, desired in final.desired.items()}


def judged(events: Iterable[Event], final: FinalStore | None) -> dict[str, list[str]]:
    """The findings of all checkers on a complete history."""
    judge = Judge()
    for event in events:
        judge.see(event)
    return judge.wrong(final)
