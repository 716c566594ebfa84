"""The checks of a history find what they are there to find: each with a violation planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodestore.etcd.session import KV
from nodestore.schema.keys import Keys
from nodestore.schema.models import (
    Actions,
    Answer,
    Applied,
    CommandRecord,
    Desired,
    DocumentView,
    Entry,
    Head,
    Manifest,
    Spec,
    SpecMark,
    Status,
    Stored,
    TermRecord,
)
from nodestore.support.jsonio import digest
from tests.faults.checkers import final_store as final_store
from tests.faults.checkers.final_store import FinalStore
from tests.faults.checkers.findings import LINES_MAX, Findings
from tests.faults.checkers.history import End, Event, HistoryError, Recorder, load, seen
from tests.faults.checkers.history_checks import judged
from tests.faults.checkers.watched import WatchRecorder

KEYS = Keys("c")
SPECS = {generation: Spec(driver="d", document={"x": generation}) for generation in (1, 2, 3)}

# --- a run in which all went well -----------------------------------------------------------------------------------


def entry(revision: int, term: int, *commands: tuple[int, str], created: int = 0, **more: Any) -> list[Event]:
    """With its head, which is put in the same transaction, the views of its documents, and `applied`."""
    records = tuple(
        CommandRecord(index=index, id=known, actor="a", time=0.0, name="node.set", **more) for index, known in commands
    )
    last = commands[-1][0]
    value = Entry(epoch=1, term=term, nonce="n", commands=records).encode().decode()
    key = f"journal/{last:016d}"
    event = saw(
        "watch", "entry", key=key, value=value, create_revision=created or revision, mod_revision=revision, at=revision
    )
    views = [
        wrote(f"state/{path}", revision, index=last, hash=digest(document))
        for path, document in more.get("writes", {}).items()
    ]
    applied = [wrote("applied", revision, index=last, base=last, through=None)]
    return [event, wrote("head", revision, index=last, nonce="n"), *views, *applied]


def saw(process: str, op: str, at: float = 0.0, **fields: Any) -> Event:
    return Event(at, process, "seen", None, op, fields)


def wrote(key: str, revision: int, **fields: Any) -> Event:
    return saw("watch", "wrote", key=key, revision=revision, at=revision, **fields)


def deleted(key: str, revision: int) -> Event:
    return saw("watch", "deleted", key=key, revision=revision, at=revision)


def vacant(revision: int) -> Event:
    return saw("watch", "vacant", revision=revision, at=revision)


def term(revision: int, nonce: str, epoch: int = 1) -> Event:
    return saw("watch", "term", epoch=epoch, revision=revision, nonce=nonce, id="m", at=revision)


def order(revision: int, term: int, generation: int) -> Event:
    return wrote("desired/n1", revision, epoch=1, term=term, generation=generation, hash=digest_of(SPECS[generation]))


def digest_of(spec: Spec) -> str:
    return digest(spec.model_dump(mode="json"))


def heard(index: int, known: str, process: str = "s1", epoch: int = 1) -> Event:
    return saw(process, "event", epoch=epoch, index=index, id=known)


def begin(after: int) -> Event:
    return saw("s1", "begin", after=after)


def obeyed(term: int, generation: int, epoch: int = 1) -> Event:
    return saw("n1", "obeyed", epoch=epoch, term=term, generation=generation)


_NUMBERS = iter(range(1, 1 << 30))


def command(known: str, begun: float, ended: float, index: int = 0, end: End = "ok") -> list[Event]:
    number = next(_NUMBERS)
    result = {"index": index} if end == "ok" else {}
    return [
        Event(begun, "c1", "invoke", number, "command", {"id": known}),
        Event(ended, "c1", end, number, "", result),
    ]


def specs(generation: int) -> dict[str, Any]:
    return {"specs": {"n1": SpecMark(generation=generation, hash=digest_of(SPECS[generation]))}}


TERMS = [term(10, "one"), term(20, "two")]
FIRST = [*entry(11, 10, (1, "a"), **specs(1)), order(11, 10, 1), *entry(12, 10, (2, "b"), writes={"doc": {"x": 1}})]
SECOND = [*entry(21, 20, (3, "c"), **specs(3)), order(21, 20, 3)]
JOURNAL = [TERMS[0], *FIRST, TERMS[1], *SECOND]
HEARD = [begin(0), heard(1, "a"), heard(2, "b"), begin(2), heard(3, "c")]
OBEYED = [obeyed(10, 1), obeyed(10, 2), obeyed(20, 2), obeyed(20, 3)]


def calls() -> list[Event]:
    return [
        *command("a", 0, 1, 1), *command("b", 0, 1, 2), *command("c", 2, 5, end="unknown"), *command("c", 6, 7, 3),
        *command("d", 8, 9, end="fail"), *command("e", 8, 9, end="unknown"),
    ]  # fmt: skip


def final(**changes: Any) -> FinalStore:
    """The store at the end. The journal is in it from its beginning."""
    desired = Desired(epoch=1, term=20, generation=3, spec=SPECS[3])
    status = Status(node="n1", nonce="x", host="h", observed_generation=3, phase="ready")
    values: dict[str, Stored] = {
        "head": Head(index=3, nonce="n"), "applied": Applied(index=3, base=3), "desired/n1": desired,
        "status/n1": status, "state/doc": DocumentView(index=2, document={"x": 1}), **changes,
    }  # fmt: skip
    made = FinalStore()
    for key, value in values.items():
        made.put(key, value.encode())
    for event in seen(JOURNAL, "entry"):
        made.put(event.fields["key"], event.fields["value"].encode())
    return made


def wrong(*events: Event, at_end: FinalStore | None = None) -> list[str]:
    """What is found in a history of these alone, where no end was seen."""
    return [line for lines in judged(events, at_end).values() for line in lines]


def test_nothing_is_wrong_where_all_went_well() -> None:
    """Two terms, three commands, an unknown outcome that was repeated, a stream over a failover, a node."""
    assert judged([*JOURNAL, *calls(), *HEARD, *OBEYED], final()) == {}
    assert judged([*HEARD, *OBEYED, *calls(), *JOURNAL], final()) == {}


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ([*command("x", 0, 1, 4)], "command x was acknowledged and is lost"),
        ([*command("a", 0, 1, 2)], "command a was acknowledged as index 2, the journal has it as 1"),
        ([*command("a", 0, 1, end="fail")], "command a was reported as not run, but ran"),
        ([*command("a", 0, 1, 1), *command("a", 2, 3, 2)], "command a was acknowledged as index 2"),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_a_command_that_is_not_as_told_is_found(told: list[Event], what: str, early: bool) -> None:
    """A command is reported if it is lost, has another index, was run although refused, or has two results, in any
    order of the records."""
    found = wrong(*told, *JOURNAL) if early else wrong(*JOURNAL, *told)
    assert any(what in line for line in found), found


def test_a_repeat_that_was_told_another_result_is_found() -> None:
    """A repeat gets the first result."""
    first, again = command("a", 0, 1, 1), command("a", 2, 3, 1)
    told = [replace(event, fields={**event.fields, "result": n}) for n, event in enumerate([first[1], again[1]])]
    found = wrong(*JOURNAL, first[0], told[0], again[0], told[1])
    assert any("different things" in line for line in found), found


@pytest.mark.parametrize("end", ["unknown", "ok"])
def test_a_command_that_failed_once_and_was_repeated_is_right(end: End) -> None:
    """A failed attempt proves nothing about another attempt with the same id."""
    assert wrong(*JOURNAL, *command("a", 0, 1, end="fail"), *command("a", 2, 3, 1, end=end)) == []
    assert wrong(*JOURNAL, *command("a", 0, 1, 1, end=end), *command("a", 2, 3, end="fail")) == []


def test_a_command_that_ran_twice_is_found() -> None:
    """A command that ran twice is reported, whatever results its callers got."""
    assert "command a took effect at 1 and at 4" in wrong(*JOURNAL, *entry(22, 20, (4, "a")))


def test_an_order_against_time_is_found() -> None:
    """b was acknowledged before a was sent, and yet comes after it."""
    found = wrong(*JOURNAL, *command("b", 0, 1, 2), *command("a", 2, 3, 1))
    assert found == ["command a has index 1, and was first sent after index 2 was acknowledged"]


def test_a_repeat_does_not_count_as_sent_anew() -> None:
    """What matters is when it was first sent."""
    told = [*command("a", 0, 1, end="unknown"), *command("b", 2, 3, 2), *command("a", 4, 5, 1)]
    assert wrong(*JOURNAL, *told) == []


# --- journal and terms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal", "what"),
    [
        ([TERMS[0], *FIRST, TERMS[1], *entry(21, 20, (4, "c"))], "indexes are not 1, 2, 3"),
        ([*JOURNAL, *entry(22, 20, (3, "x"), created=21)], "was written twice"),
        ([*JOURNAL, *entry(22, 20, (3, "x"))], "indexes are not 1, 2, 3"),
        ([TERMS[0], *FIRST, TERMS[1], *entry(21, 10, (3, "c"))], "was written by term 10 while 20 was in force"),
        ([*TERMS, *entry(21, 20, (1, "a")), *entry(22, 10, (2, "b"))], "after one of term 1.20"),
        ([TERMS[0], *FIRST, FIRST[0]], "the watch told of revision 11 after 12"),
        ([TERMS[0], FIRST[0]], "was written without head"),
    ],
    ids=["gap", "fork", "fork after truncation", "of a deposed leader", "term that goes back", "disorder", "no head"],
)
def test_a_journal_that_is_broken_is_found(journal: list[Event], what: str) -> None:
    """In the order in which the store was written."""
    found = wrong(*journal)
    assert any(what in line for line in found), found


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        ([term(20, "one"), term(10, "two")], "term 1.10 after 1.20"),
        ([term(20, "one"), term(20, "two")], "term 1.20 after 1.20"),
        ([term(10, "one", epoch=2), term(20, "two")], "term 1.20 after 2.10"),
        ([term(10, "one"), term(20, "one")], "attempt one won 2 terms"),
    ],
)
def test_terms_that_do_not_grow_are_found(terms: list[Event], what: str) -> None:
    """By (epoch, revision), and one attempt wins one."""
    assert what in wrong(*terms)


def test_a_term_of_a_later_epoch_is_greater_whatever_its_revision() -> None:
    """Terms are ordered by epoch first."""
    assert "terms grow" not in judged([term(20, "one"), term(10, "two", epoch=2)], None)


# --- writes that name no term ---------------------------------------------------------------------------------------


NEWER = entry(22, 20, (4, "d"), writes={"doc": {"x": 2}})


@pytest.mark.parametrize(
    ("late", "what"),
    [
        ([wrote("state/doc", 23, index=2, hash=digest({"x": 1}))], "state/doc was put as of index 2"),
        ([wrote("state/doc", 23, index=4, hash=digest({"x": 1}))], "state/doc was put as of index 4"),
        ([deleted("state/doc", 23)], "state/doc was deleted, the journal has it"),
        ([deleted("desired/n1", 23)], "desired/n1 was deleted, the journal has it"),
        ([order(23, 20, 1)], "desired/n1 was put as of index 1"),
        ([order(23, 10, 3)], "desired/n1 was written by term 10 while 20 was in force"),
        ([wrote("applied", 23, index=3, base=3, through=None)], "applied was put at 3, the journal was at 4"),
        ([wrote("applied", 23, index=4, base=3, through="x")], "applied was put back, from 4 to 3"),
        ([wrote("head", 23, index=3, nonce="n")], "head was put at 3, the journal was at 4"),
        ([deleted("head", 23)], "head was deleted"),
        ([wrote("terms/one", 23, nonce="one")], "terms/one was written while the attempt two led"),
        ([vacant(23), wrote("head", 24, index=4, nonce="n")], "head was written at revision 24, while nobody led"),
        ([vacant(23), deleted(f"journal/{1:016d}", 24)], "was deleted at revision 24, while nobody led"),
        ([deleted(f"journal/{1:016d}", 23)], "no more than 0 is in two snapshots and the views"),
        (
            [wrote("snapshots/4-a/0", 23), term(24, "three"), wrote("snapshots/4-a/1", 25)],
            "snapshot 4-a was begun by term 20, and written on by 24",
        ),
        ([wrote("state/doc", 23, garbage=True)], "state/doc holds garbage"),
    ],
)
def test_a_write_that_cannot_be_the_leaders_is_found(late: list[Event], what: str) -> None:
    """A write is compared with the leader at its revision, and with the state that the journal gives at that
    revision."""
    assert wrong(*JOURNAL, *NEWER) == []
    found = wrong(*JOURNAL, *NEWER, *late)
    assert any(what in line for line in found), found


def test_a_truncation_as_far_as_two_snapshots_go_is_right() -> None:
    """And one entry further is not."""
    snapshots = [wrote(f"snapshots/{name}/manifest", 24 + name, index=name) for name in (2, 3)]
    right = [deleted(f"journal/{index:016d}", 30) for index in (1, 2)]
    assert wrong(*JOURNAL, *NEWER, *snapshots, *right) == []
    found = wrong(*JOURNAL, *NEWER, *snapshots, *right, deleted(f"journal/{3:016d}", 31))
    assert found == [f"journal/{3:016d} was deleted; no more than 2 is in two snapshots and the views"]


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ([begin(0), heard(1, "a"), heard(3, "c")], "s1 heard index 3 after 1"),
        ([begin(0), heard(1, "a"), heard(2, "b"), begin(1), heard(2, "b"), heard(3, "c")], "s1 heard index 2 after 2"),
        ([begin(0), heard(1, "a"), begin(2), heard(3, "c")], "s1 heard index 3 after 1"),
        ([begin(0), heard(2, "b"), heard(1, "a"), heard(3, "c")], "s1 heard index 2 after 0"),
        ([begin(0), heard(1, "a"), heard(2, "x"), heard(3, "c")], "s1 heard x as index 2, which the journal has not"),
        ([begin(0), heard(1, "a"), heard(2, "b")], "s1 ended at index 2, the journal at 3"),
        ([begin(0)], "s1 ended at index 0, the journal at 3"),
        ([heard(1, "a")], "s1 heard index 1 before it began"),
        ([begin(2), heard(3, "c", epoch=2)], "which the journal has not there"),
        ([begin(0), heard(1, "a", epoch=2), heard(2, "b")], "s1 heard epoch 1 after 2"),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_a_stream_that_is_broken_is_found(told: list[Event], what: str, early: bool) -> None:
    """A gap, a repeat, over a reconnect too; another order, another command, an end too soon."""
    history = [*told, *JOURNAL] if early else [*JOURNAL, *told]
    found = wrong(*history, *calls(), *OBEYED, at_end=final())
    assert any(what in line for line in found), found


def test_a_reader_that_was_told_to_read_anew_may_begin_elsewhere() -> None:
    """A reader behind the retained journal is told to read everything again, so the jump is no gap."""
    told = [begin(0), heard(1, "a"), saw("s1", "gone"), begin(2), heard(3, "c")]
    assert judged([*JOURNAL, *told, *calls(), *OBEYED], final()) == {}


# --- nodes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orders", "what"),
    [
        ([*OBEYED, obeyed(10, 3)], "n1 obeyed 1.10.3 after 1.20.3"),
        ([*OBEYED, obeyed(20, 2), obeyed(20, 3)], "n1 obeyed 1.20.2 after 1.20.3"),
        ([obeyed(10, 1, epoch=2), *OBEYED], "n1 obeyed 1.10.1 after 2.10.1"),
        ([obeyed(15, 1), *OBEYED[2:]], "n1 obeyed 1.15.1: there was no such term"),
        (OBEYED[:3], "n1 ended at 1.20.2, and should be at 3"),
        ([], "n1 never obeyed anything, and should be at 3"),
    ],
)
def test_a_node_that_disobeyed_is_found(orders: list[Event], what: str) -> None:
    """A node is reported if it applied a lower epoch, term or generation, a term that never existed, or a spec that is
    not the last one."""
    assert what in wrong(*JOURNAL, *orders, at_end=final())


def test_a_noded_that_starts_anew_may_begin_with_what_it_remembers() -> None:
    """Another nonce is another noded; it too is held to what it has obeyed itself."""
    of = [replace(event, fields={**event.fields, "nonce": "x"}) for event in OBEYED]
    anew = [replace(event, fields={**event.fields, "nonce": "y"}) for event in OBEYED[1:]]
    assert wrong(*JOURNAL, *of, *anew, at_end=final()) == []
    assert wrong(*JOURNAL, *of, *anew, anew[0], anew[-1], at_end=final()) == ["n1 obeyed 1.10.2 after 1.20.3"]


def test_a_node_that_disobeyed_once_is_held_to_what_it_had_obeyed_before() -> None:
    """A lower order does not make other lower ones right."""
    found = wrong(*JOURNAL, *OBEYED, obeyed(10, 3), obeyed(20, 2), obeyed(20, 3), at_end=final())
    assert found == ["n1 obeyed 1.10.3 after 1.20.3", "n1 obeyed 1.20.2 after 1.20.3"]


def test_a_node_whose_status_is_behind_is_found() -> None:
    """It obeyed, and did not get there."""
    behind = Status(node="n1", nonce="x", host="h", observed_generation=2, phase="ready")
    assert wrong(*JOURNAL, *OBEYED, at_end=final(**{"status/n1": behind}))


# --- the store at the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"head": Head(index=4, nonce="n")}, "head is at 4, the journal ends at 3"),
        ({"state/doc": DocumentView(index=2, document={"x": 7})}, "state/doc: the view has (2, "),
        ({"state/other": DocumentView(index=2, document={})}, "state/other: the view has (2, "),
        (
            {"desired/n1": Desired(epoch=1, term=20, generation=3, spec=SPECS[2])},
            f"desired/n1: the view has (3, '{digest_of(SPECS[2])}'), the journal makes (3, '{digest_of(SPECS[3])}')",
        ),
        ({"applied": Applied(index=3, base=2, through="a")}, "applied is {"),
    ],
)
def test_an_end_that_is_not_what_was_recorded_is_found(changes: dict[str, Stored], what: str) -> None:
    """Views to their hashes, not their generations alone."""
    found = wrong(*JOURNAL, *OBEYED, at_end=final(**changes))
    assert any(what in line for line in found), found


def snapshot(made: FinalStore, index: int, documents: dict[str, Any], known: dict[str, Any]) -> None:
    from hashlib import sha256

    chunk = Encoded({"v": 1, "part": "documents", "items": documents}).encode()
    specs_chunk = Encoded({"v": 1, "part": "specs", "items": known}).encode()
    of = Manifest(
        index=index, nonce="n", chunks=2, size_bytes=1, sha256=sha256(chunk + specs_chunk).hexdigest(), time=0.0,
        epoch=1, documents=1,
    )  # fmt: skip
    for part, value in (("0", chunk), ("1", specs_chunk), ("manifest", of.encode())):
        made.put(f"snapshots/{index:016d}-n/{part}", value)


class Encoded(dict[str, Any]):
    def encode(self) -> bytes:
        import json

        return json.dumps(self).encode()


def with_snapshots() -> FinalStore:
    """Two, of index 1 and 2; the journal is in the store from index 2 on."""
    made, mark = final(), [1, digest_of(SPECS[1])]
    snapshot(made, 1, {}, {"n1": mark})
    snapshot(made, 2, {"doc": [2, {"x": 1}]}, {"n1": mark})
    del made.journal[1]
    return made


def test_the_store_itself_makes_the_state_again() -> None:
    """From each of its two newest snapshots and the journal after it."""
    assert wrong(*JOURNAL, *OBEYED, at_end=with_snapshots()) == []


def _too_far(made: FinalStore) -> None:
    del made.journal[2]


def _no_snapshot(made: FinalStore) -> None:
    made.snapshots.clear()


def _damaged(made: FinalStore) -> None:
    made.snapshots[f"{2:016d}-n"]["0"] += b" "


def _of_another_state(made: FinalStore) -> None:
    snapshot(made, 2, {"doc": [2, {"x": 7}]}, {"n1": [1, digest_of(SPECS[1])]})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_too_far, f"snapshot {1:016d}-n with the journal after it lacks index 2"),
        (_no_snapshot, "the journal in the store lacks index 1"),
        (_damaged, f"snapshot {2:016d}-n is damaged"),
        (_of_another_state, f"state/doc: snapshot {2:016d}-n with the journal after it has (2, "),
    ],
)
def test_a_store_that_has_lost_something_is_found(change: Any, what: str) -> None:
    """However complete the record is: a truncation went too far, or a snapshot holds something else."""
    made = with_snapshots()
    change(made)
    found = wrong(*JOURNAL, *OBEYED, at_end=made)
    assert any(what in line for line in found), found


def test_a_store_is_kept_as_it_was(tmp_path: Path) -> None:
    """The final store is recorded with one line for each key."""
    made, path = FinalStore(), tmp_path / "store.jsonl"
    values = {"head": Head(index=3, nonce="é").encode(), "state/doc": b'{"index": 2, "document": {"x": 1}}'}
    path.write_text("".join(final_store.line(key, value) for key, value in values.items()))
    for key, value in values.items():
        made.put(key, value)
    kept = final_store.load_final(path)
    assert (kept.head, kept.views.documents) == (made.head, made.views.documents)


# --- what is recorded -----------------------------------------------------------------------------------------------


def put(key: str, value: Stored | bytes, revision: int) -> KV:
    raw = value if isinstance(value, bytes) else value.encode()
    return KV(key, raw, revision, revision, 1, 0)


def record(path: Path, *kvs: KV | tuple[str, int]) -> list[Event]:
    """What is written down of these puts, and deletions, and read back."""
    with Recorder(path, clock=lambda: 11.0) as recorder:
        watched = WatchRecorder(recorder.seen, KEYS)
        for kv in kvs:
            if isinstance(kv, KV):
                watched.put(kv)
            else:
                watched.deleted(*kv)
    return load(path)


def test_an_entry_is_recorded_as_a_watch_shows_it(tmp_path: Path) -> None:
    """Value and revisions come back as they were."""
    (wanted, *_) = seen(JOURNAL, "entry")
    kv = put(KEYS.entry(1), wanted.fields["value"].encode(), 11)
    (event,) = record(tmp_path / "history", kv)
    assert (event.op, event.fields) == ("entry", wanted.fields)


def test_a_term_is_recorded_each_time_it_is_won(tmp_path: Path) -> None:
    """Terms are taken from puts of `leader`: an attempt that wins twice overwrites its own record, which creates no
    key."""

    def term_of(nonce: str, ended: str | None = None) -> TermRecord:
        return TermRecord(id="m", host="h", nonce=nonce, epoch=1, since=0.0, ended=ended)

    def won(nonce: str, revision: int) -> list[KV | tuple[str, int]]:
        return [put(KEYS.leader, b"{}", revision), put(KEYS.term(nonce), term_of(nonce), revision)]

    resigned: list[KV | tuple[str, int]] = [(KEYS.leader, 12), put(KEYS.term("one"), term_of("one", "stopped"), 12)]
    right = record(tmp_path / "right", *won("one", 10), *resigned, *won("two", 13))
    assert [event.op for event in right] == ["term", "vacant", "wrote", "term"]
    assert judged(right, None) == {}
    twice = record(tmp_path / "twice", *won("one", 10), *resigned, *won("one", 13))
    assert judged(twice, None) == {"terms grow": ["attempt one won 2 terms"]}


def test_what_a_node_says_it_obeys_is_recorded(tmp_path: Path) -> None:
    """The spec that a node applies is taken from its status; a status without one is not recorded."""
    status = Status(node="n1", nonce="x", host="h", epoch=1, term=20, observed_generation=3, phase="ready")
    idle = Status(node="n1", nonce="x", host="h", phase="idle")
    (event,) = record(tmp_path / "history", put(KEYS.status_of("n1"), idle, 5), put(KEYS.status_of("n1"), status, 6))
    assert (event.process, event.fields) == ("n1", {"epoch": 1, "term": 20, "generation": 3, "nonce": "x"})


@pytest.mark.parametrize(
    "late",
    [
        put(KEYS.actions_of("n1"), Actions(epoch=1, term=10), 22),
        put(KEYS.answer("m2"), Answer(term=10, nonce="x"), 22),
        put(KEYS.desired_of("n1"), Desired(epoch=1, term=10, generation=3, spec=SPECS[3]), 22),
    ],
    ids=["actions", "answer", "order"],
)
def test_a_write_of_the_deposed_is_found_whatever_it_is(tmp_path: Path, late: KV) -> None:
    """From its successor's takeover on, not only from its first write."""
    name = late.key.removeprefix(KEYS.prefix)
    found = wrong(*JOURNAL, *record(tmp_path / "late", late))
    assert found == [f"{name} was written by term 10 while 20 was in force"]


def test_what_is_not_a_leaders_is_not_judged(tmp_path: Path) -> None:
    """Candidacies, claims and configuration are others' to write, at any time."""
    keys = [KEYS.candidate("m1"), KEYS.alive_of("n1"), KEYS.config_current, KEYS.acted_of("n1"), KEYS.paused]
    assert record(tmp_path / "history", *(put(key, b"{}", 5) for key in keys), *((key, 6) for key in keys)) == []


def test_an_entry_that_lacks_something_is_named() -> None:
    """An event with a missing field raises an error that names it."""
    with pytest.raises(HistoryError, match=r"entry of watch at 0\.0 lacks key, value, create_revision"):
        judged([saw("watch", "entry", mod_revision=1)], None)


def test_what_is_found_is_bounded() -> None:
    """One fault of a long run may show a million times."""
    findings = Findings()
    for number in range(LINES_MAX + 5):
        findings.add(str(number))
    assert findings.lines[-2:] == [str(LINES_MAX - 1), "and 5 more like these"]
