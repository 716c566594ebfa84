"""What a history must show: each check returns what it found wrong, like those of a store (`tests.faults.checks`).

Operations and their fields. Calls, by clients:

    command     id; ok: index, and result if it is to be compared. fail: surely not run.
    read, write, delete, cas, add     key and what `linearizable.register` says

Seen, by an independent watch of the store, from before the first command on:

    entry       key, value, create_revision, mod_revision     each put under journal/
    term        epoch, revision, nonce, id     each put of `leader`, with its record under terms/
    wrote       key, revision, term     each put of a leader that says whose it is: entries, orders, actions, answers

Seen, by a reader of the journal's event stream (`process` names the reader, over all its reconnects):

    begin       after: the index asked for, first
    event       epoch, index, id
    gone        it was told to read the state anew; the next `begin` tells from where

Seen, at a node (`process` is the node), or by the watch, from what the node says in its status:

    obeyed      epoch, term, generation, nonce (of the noded)     each order that it began to make so
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nodestore.etcd import KV
from nodestore.jsonio import loads
from nodestore.keys import Keys
from nodestore.models import Entry, Status, Term, TermRecord, decode
from tests.faults import checks
from tests.faults.checks import Store
from tests.faults.history import Call, Event, HistoryError, seen


class Watched:
    """Says what a watch of the whole store has shown as a history does. `seen`: as `history.Recorder.seen`."""

    def __init__(self, seen: Callable[..., None], keys: Keys) -> None:
        self._seen, self._keys = seen, keys
        self._won = 0

    def put(self, kv: KV) -> None:
        """Each put, in the order of the store."""
        keys, key = self._keys, kv.key
        if key == keys.leader:
            self._won = kv.mod_revision
        elif key.startswith(keys.terms) and kv.mod_revision == self._won:
            term = decode(TermRecord, kv.value, key)
            self._seen("watch", "term", epoch=term.epoch, revision=kv.mod_revision, nonce=term.nonce, id=term.id)
        elif key.startswith(keys.status):
            self._obeyed(decode(Status, kv.value, key))
        elif key.startswith((keys.journal, keys.desired, keys.actions, keys.answers)):
            if key.startswith(keys.journal):
                self._entry(kv)
            self._seen("watch", "wrote", key=key, revision=kv.mod_revision, term=loads(kv.value)["term"])

    def _entry(self, kv: KV) -> None:
        self._seen(
            "watch", "entry", key=kv.key, value=kv.value.decode(), create_revision=kv.create_revision,
            mod_revision=kv.mod_revision,
        )  # fmt: skip

    def _obeyed(self, status: Status) -> None:
        if status.observed_generation:
            self._seen(
                status.node, "obeyed", epoch=status.epoch, term=status.term, generation=status.observed_generation,
                nonce=status.nonce,
            )  # fmt: skip


def recorded(events: Iterable[Event], store: Store) -> Store:
    """The store as it was read at the end, with every entry and every term that ever was: those that were truncated
    since too, and both puts where something was put twice. The checks of a store then see all of it."""
    events = list(events)
    journal = [_entry(event) for event in seen(events, "entry")]
    terms = [_term(event) for event in seen(events, "term")]
    return replace(
        store,
        journal=tuple(sorted(journal, key=lambda item: item[0].mod_revision)),
        terms=tuple(sorted(terms, key=lambda item: item[0])),
    )


def _entry(event: Event) -> tuple[KV, Entry]:
    of = _fields(event, "key", "value", "create_revision", "mod_revision")
    raw = of["value"].encode()
    return KV(of["key"], raw, of["create_revision"], of["mod_revision"], 1, 0), decode(Entry, raw, of["key"])


def _term(event: Event) -> tuple[int, TermRecord]:
    of = _fields(event, "epoch", "revision", "nonce", "id")
    record = TermRecord(id=of["id"], host=of["id"], nonce=of["nonce"], epoch=of["epoch"], since=event.at)
    return of["revision"], record


def _fields(event: Event, *names: str) -> Mapping[str, Any]:
    missing = [name for name in names if name not in event.fields]
    if missing:
        raise HistoryError(f"{event.op} of {event.process} at {event.at} lacks {', '.join(missing)}")
    return event.fields


# --- commands -------------------------------------------------------------------------------------------------------


def not_exactly_once(calls: Sequence[Call], store: Store) -> list[str]:
    """Acknowledged: in the journal, once, at the index that was told. Surely failed: not in it. Unknown: at most once.
    Every acknowledgement of one id, its repeats' too, tells the same."""
    commands = [call for call in calls if call.op == "command"]
    told: dict[str, Call] = {}
    wrong = []
    for call in commands:
        if call.end == "ok":
            first = told.setdefault(call.fields["id"], call)
            if first.result != call.result:
                wrong.append(f"{first} and {call} were told different things")
    wrong += checks.lost_or_doubled(store, {known: call.result["index"] for known, call in told.items()})
    ran = {command.id for command in store.commands}
    refused = {call.fields["id"] for call in commands if call.end == "fail"}
    maybe = {call.fields["id"] for call in commands if call.end != "fail"}
    return wrong + [f"command {known} was said not to have run, and has" for known in sorted((refused - maybe) & ran)]


def acknowledged_out_of_order(calls: Sequence[Call]) -> list[str]:
    """A command that was sent after another was acknowledged has the higher index, unless it is a repeat."""
    wrong = []
    first_sent: dict[str, float] = {}
    done: list[tuple[float, int, str]] = []
    for call in calls:
        if call.op == "command":
            first_sent.setdefault(call.fields["id"], call.invoked)
            if call.end == "ok":
                done.append((call.ended, call.result["index"], call.fields["id"]))
    by_index = sorted(done, key=lambda item: item[1])
    latest_beginning = 0.0
    holder = ""
    for ended, index, known in by_index:
        if ended < latest_beginning:
            wrong.append(f"command {known} was acknowledged as index {index} before {holder}, below it, was first sent")
        if first_sent[known] > latest_beginning:
            latest_beginning, holder = first_sent[known], known
    return wrong


# --- terms ----------------------------------------------------------------------------------------------------------


def terms_that_do_not_grow(events: Iterable[Event]) -> list[str]:
    """In the order in which they were won, by (epoch, revision); and no attempt has won two."""
    terms = [(Term(event.fields["epoch"], event.fields["revision"]), event) for event in seen(events, "term")]
    wrong = [
        f"term {later} after {earlier}" for (earlier, _), (later, _) in itertools.pairwise(terms) if later <= earlier
    ]
    by_nonce: defaultdict[str, list[Term]] = defaultdict(list)
    for term, event in terms:
        by_nonce[event.fields["nonce"]].append(term)
    return wrong + [f"attempt {nonce} won {len(won)} terms" for nonce, won in by_nonce.items() if len(won) > 1]


def writes_after_a_successors_first(events: Iterable[Event]) -> list[str]:
    """In the order of the store, no write names an older term than one before it does: whoever was deposed changes
    nothing, be it the journal, an order, an action or an answer, from its successor's first write on at the latest."""
    wrong, newest, by = [], 0, ""
    for event in seen(events, "wrote"):
        of = _fields(event, "key", "revision", "term")
        if of["term"] < newest:
            wrong.append(f"{of['key']} was written by term {of['term']} after {by} was by term {newest}")
        else:
            newest, by = of["term"], of["key"]
    return wrong


# --- streams --------------------------------------------------------------------------------------------------------


def broken_streams(events: Iterable[Event], store: Store, up_to: int) -> list[str]:
    """Each reader heard every command from where it began up to `up_to`, in order, none twice, whichever masters it
    asked, and each was the command that the journal has there."""
    ids = {(entry.epoch, command.index): command.id for _, entry in store.journal for command in entry.commands}
    readers: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.type == "seen" and event.op in ("begin", "event", "gone"):
            readers[event.process].append(event)
    return [line for reader, heard in sorted(readers.items()) for line in _broken(reader, heard, ids, up_to)]


def _broken(reader: str, heard: Sequence[Event], ids: Mapping[tuple[int, int], str], up_to: int) -> list[str]:
    wrong, last, epoch = [], None, 0
    for event in heard:
        if event.op == "gone":
            last = None
        elif event.op == "begin":
            last = event.fields["after"] if last is None else last
        elif last is None:
            wrong.append(f"{reader} heard index {event.fields['index']} before it began")
        else:
            index = event.fields["index"]
            if index != last + 1:
                wrong.append(f"{reader} heard index {index} after {last}")
            if event.fields["epoch"] < epoch:
                wrong.append(f"{reader} heard epoch {event.fields['epoch']} after {epoch}")
            if ids.get((event.fields["epoch"], index)) != event.fields["id"]:
                wrong.append(f"{reader} heard {event.fields['id']} as index {index}, which the journal has not there")
            last, epoch = index, event.fields["epoch"]
    if last is None or last < up_to:
        wrong.append(f"{reader} ended at index {last}, the journal at {up_to}")
    return wrong


# --- nodes ----------------------------------------------------------------------------------------------------------


def disobedient_nodes(events: Iterable[Event], store: Store) -> list[str]:
    """No noded began to obey an order lower than one it had obeyed, by (epoch, term, generation), nor one of a term
    that never was; and each node ended at its desired generation. A noded that starts anew while etcd is away may begin
    with an older one, which it remembers; where no nonce tells them apart, a node's nodeds are taken for one."""
    terms = {(record.epoch, revision) for revision, record in store.terms}
    last: dict[str, tuple[int, int, int]] = {}
    nonces: dict[str, Any] = {}
    wrong = []
    for event in seen(events, "obeyed"):
        order = (event.fields["epoch"], event.fields["term"], event.fields["generation"])
        nonce = event.fields.get("nonce")
        if nonces.setdefault(event.process, nonce) != nonce:
            nonces[event.process] = nonce
            last.pop(event.process, None)
        if order < last.get(event.process, order):
            wrong.append(f"{event.process} obeyed {_order(order)} after {_order(last[event.process])}")
        if order[:2] not in terms:
            wrong.append(f"{event.process} obeyed {_order(order)}: there was no such term")
        last[event.process] = max(order, last.get(event.process, order))
        if order[2] < 1:
            wrong.append(f"{event.process} obeyed {_order(order)}: there is no such generation")
    for node, desired in store.desired.items():
        if node not in last:
            wrong.append(f"{node} never obeyed anything, and should be at {desired.generation}")
        elif last[node][2] != desired.generation:
            wrong.append(f"{node} ended at {_order(last[node])}, and should be at {desired.generation}")
    return wrong + checks.nodes_behind(store)


def _order(order: tuple[int, int, int]) -> str:
    return ".".join(str(part) for part in order)


# --- all of it ------------------------------------------------------------------------------------------------------


def safety(events: Sequence[Event], calls: Sequence[Call], store: Store) -> list[str]:
    """Everything that must hold at every moment, but for what `linearizable` judges. `store`: as `recorded`."""
    return [
        *checks.gaps_and_forks(store),
        *checks.terms_that_do_not_grow(store),
        *checks.writes_of_deposed_leaders(store),
        *terms_that_do_not_grow(events),
        *writes_after_a_successors_first(events),
        *not_exactly_once(calls, store),
        *acknowledged_out_of_order(calls),
    ]
