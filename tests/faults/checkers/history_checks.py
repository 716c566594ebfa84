"""What a history must show. The events are taken as they come, so a history may be larger than memory: `Judge`.

Operations and their fields. Calls, by clients:

    command     id; again: true for a repeat of an id that has ended; ok: index, and result if it is to be compared.
                fail: surely not run.
    read, write, delete     key and what `linearizable.register` says

Seen, by an independent watch of the store, from before the first command on, in the store's order (`tests.faults.
watched`); all but `term` and `vacant` with the key, without the cluster's prefix:

    entry       value, create_revision, mod_revision     each put under journal/
    term        epoch, revision, nonce, id     each put of `leader`, with its record under terms/
    vacant      revision     `leader` was deleted
    wrote       revision, and what is told of it     each other put of what leaders alone write
    deleted     revision     each deletion of such a key

Seen, by a reader of the journal's event stream (`process` names the reader, over all its reconnects):

    begin       after: the index asked for, first
    event       epoch, index, id
    gone        it was told to read the state anew; the next `begin` tells from where

Seen, at a node (`process` is the node), or by the watch, from what the node says in its status:

    obeyed      epoch, term, generation, nonce (of the noded)     each order that it began to make so

What is kept, for a run of hours: of each command its id and index (some 200 bytes); of documents and specs a hash.
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
    """Exactly once. Acknowledged: in the journal, once, at the index that was told, and every acknowledgement of one id
    tells the same. Surely failed: not in it. Unknown: at most once."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.acknowledged = 0
        self.ends: Counter[str] = Counter()
        self.highest = 0
        """The highest index that a client was told."""
        self._ran: dict[str, int] = {}
        """Negative: acknowledged too."""
        self._early: dict[str, int] = {}
        """Acknowledged, and not yet seen in the journal."""
        self._results: dict[str, Mapping[str, Any]] = {}
        self._refused: set[str] = set()
        self._maybe: set[str] = set()

    def ran(self, index: int, known: str) -> None:
        """The journal has it there."""
        before = self._ran.get(known)
        if before is not None:
            self.findings.add(f"command {known} took effect at {abs(before)} and at {index}")
            return
        told = self._early.pop(known, None)
        self._ran[known] = index if told is None else -index
        if told is not None:
            self._same(known, told, index)

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

    def _same(self, known: str, told: int, index: int) -> None:
        if told != index:
            self.findings.add(f"command {known} was acknowledged as index {told}, the journal has it as {index}")

    def wrong(self) -> list[str]:
        """Once all was seen."""
        lost = [f"command {known} was acknowledged and is lost" for known in self._early]
        ran = sorted(known for known in self._refused - self._maybe if known in self._ran)
        return [*self.findings.lines, *lost, *(f"command {known} was said not to have run, and has" for known in ran)]


class RealTime:
    """A command that was first sent after another was acknowledged has the higher index."""

    def __init__(self) -> None:
        self.findings = Findings()
        self._acknowledged = 0
        self._floors: dict[str, int] = {}
        """By id, while it is not acknowledged: the highest index that was acknowledged when it was first sent."""

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
    """They grow in the order in which they were won, by (epoch, revision), and no attempt wins two."""

    def __init__(self) -> None:
        self.findings = Findings()
        self._last: Term | None = None
        self._won: Counter[str] = Counter()

    def see(self, event: Event) -> None:
        of = fields(event, "epoch", "revision", "nonce", "id")
        term = Term(of["epoch"], of["revision"])
        if self._last is not None and term <= self._last:
            self.findings.add(f"term {term} after {self._last}")
        self._last = term
        self._won[of["nonce"]] += 1
        if self._won[of["nonce"]] == 2:
            self.findings.add(f"attempt {of['nonce']} won 2 terms")


class Streams:
    """Each reader hears every command from where it began, in order, none twice, whichever masters it asks, and each is
    the command that the journal has there."""

    def __init__(self, journal: Journal) -> None:
        self.findings = Findings()
        self._journal = journal
        self.heard: Counter[str] = Counter()
        """How many events, by reader."""
        self.gones: list[Event] = []
        """When readers were told to read the state anew."""
        self._at: dict[str, int | None] = {}
        self._epoch: dict[str, int] = {}
        self._early: dict[tuple[int, int, str], str] = {}
        """Heard before the watch of the store has told of it; by whom."""

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

    def _heard(self, reader: str, at: int, of: Mapping[str, Any]) -> None:
        epoch, index, known = of["epoch"], of["index"], of["id"]
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
        """The journal has got further."""
        for epoch, index, known in [one for one in self._early if one[1] <= self._journal.last]:
            self._compare(self._early.pop((epoch, index, known)), epoch, index, known)

    def wrong(self, up_to: int | None) -> list[str]:
        """Once all was seen: each reader must have come to index `up_to`; None: anywhere."""
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
    """No noded begins to obey an order lower than one it has obeyed, by (epoch, term, generation), nor one of a term
    that never was; and each node ends at its desired generation. A noded that starts anew while etcd is away may begin
    with an older one, which it remembers; where no nonce tells them apart, a node's nodeds are taken for one."""

    def __init__(self) -> None:
        self.findings = Findings()
        self._last: dict[str, tuple[int, int, int]] = {}
        self._nonces: dict[str, Any] = {}
        self._terms: dict[tuple[int, int], str] = {}

    def see(self, event: Event) -> None:
        node, of = event.process, event.fields
        order = (of["epoch"], of["term"], of["generation"])
        nonce = of.get("nonce")
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
        """Once all was seen. terms: all that ever were. generations: where each node should be."""
        wrong = self.findings.lines
        wrong += [f"{told}: there was no such term" for term, told in self._terms.items() if term not in terms]
        for node, generation in generations.items():
            if node not in self._last:
                wrong.append(f"{node} never obeyed anything, and should be at {generation}")
            elif self._last[node][2] != generation:
                wrong.append(f"{node} ended at {_order(self._last[node])}, and should be at {generation}")
        return wrong


def _order(order: tuple[int, int, int]) -> str:
    return ".".join(str(part) for part in order)


class Judge:
    """All checkers on one history: `see` each event, merged by time, then ask what is `wrong`."""

    def __init__(self, hears: Callable[[Call], None] = lambda call: None) -> None:
        """hears: is told each call as it ends."""
        self.commands, self.real_time, self.terms = Commands(), RealTime(), Terms()
        self.journal = Journal(self.commands.ran)
        self.writes, self.streams, self.obedience = Writes(self.journal), Streams(self.journal), Obedience()
        self.documents = linearizable.Documents()
        self.verdicts: dict[str, linearizable.Verdict] = {}
        """On single documents, once `wrong` was asked."""
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
        self.documents.end(number, call)
        self._hears(call)

    def wrong(self, final: FinalStore | None) -> dict[str, list[str]]:
        """By promise, once all was seen: what is not as it must be. Only those that are broken. None: of a run that was
        cut short, nothing is asked of how it ended."""
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
    """Where each node should be; none, where that is not known."""
    return {} if final is None else {node: desired.generation for node, desired in final.desired.items()}


def judged(events: Iterable[Event], final: FinalStore | None) -> dict[str, list[str]]:
    """All of a history at once."""
    judge = Judge()
    for event in events:
        judge.see(event)
    return judge.wrong(final)
