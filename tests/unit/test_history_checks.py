"""The checks of a history find what they are there to find: each with a violation planted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodestore.etcd import KV
from nodestore.keys import Keys
from nodestore.models import (
    Actions,
    Answer,
    Applied,
    CommandRecord,
    Desired,
    Entry,
    Head,
    Spec,
    Status,
    Stored,
    TermRecord,
)
from tests.faults import checks, history_checks
from tests.faults.checks import Store
from tests.faults.history import Call, End, Event, HistoryError, Recorder, load, seen

# --- a run in which all went well -----------------------------------------------------------------------------------


def entry(revision: int, term: int, *commands: tuple[int, str], created: int = 0) -> Event:
    records = tuple(
        CommandRecord(index=index, id=known, actor="a", time=0.0, name="node.set") for index, known in commands
    )
    value = Entry(epoch=1, term=term, nonce="n", commands=records).encode().decode()
    key = f"journal/{commands[-1][0]:016d}"
    return saw(
        "watch", "entry", key=key, value=value, create_revision=created or revision, mod_revision=revision, at=revision
    )


def saw(process: str, op: str, at: float = 0.0, **fields: Any) -> Event:
    return Event(at, process, "seen", None, op, fields)


def term(revision: int, nonce: str, epoch: int = 1) -> Event:
    return saw("watch", "term", epoch=epoch, revision=revision, nonce=nonce, id="m", at=revision)


def heard(index: int, known: str, process: str = "s1", epoch: int = 1) -> Event:
    return saw(process, "event", epoch=epoch, index=index, id=known)


def begin(after: int) -> Event:
    return saw("s1", "begin", after=after)


def obeyed(term: int, generation: int, epoch: int = 1) -> Event:
    return saw("n1", "obeyed", epoch=epoch, term=term, generation=generation)


def command(known: str, begun: float, ended: float, index: int = 0, end: End = "ok") -> Call:
    result = {"index": index} if end == "ok" else {}
    return Call("c1", "command", begun, ended if end == "ok" else math.inf, end, {"id": known}, result)


TERMS = [term(10, "one"), term(20, "two")]
JOURNAL = [entry(11, 10, (1, "a"), (2, "b")), entry(21, 20, (3, "c"))]
CALLS = [
    command("a", 0, 1, 1), command("b", 0, 1, 2), command("c", 2, 5, end="unknown"), command("c", 6, 7, 3),
    command("d", 8, 9, end="fail"), command("e", 8, 9, end="unknown"),
]  # fmt: skip
HEARD = [begin(0), heard(1, "a"), heard(2, "b"), begin(2), heard(3, "c")]
OBEYED = [obeyed(10, 1), obeyed(10, 2), obeyed(20, 2), obeyed(20, 3)]


def store(*events: Event) -> Store:
    """As it was read at the end, with what was recorded."""
    read = Store(
        journal=(),
        terms=(),
        head=Head(index=3, nonce="n"),
        applied=Applied(index=3, base=3),
        state={},
        desired={"n1": Desired(epoch=1, term=20, generation=3, spec=Spec(driver="d"))},
        status={"n1": Status(node="n1", nonce="x", host="h", observed_generation=3, phase="ready")},
    )
    return history_checks.recorded(events or [*TERMS, *JOURNAL], read)


def test_nothing_is_wrong_where_all_went_well() -> None:
    """Two terms, three commands, an unknown outcome that was repeated, a stream over a failover, a node."""
    assert history_checks.safety([*TERMS, *JOURNAL], CALLS, store()) == []
    assert history_checks.broken_streams(HEARD, store(), 3) == []
    assert history_checks.disobedient_nodes(OBEYED, store()) == []


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "what"),
    [
        ([command("x", 0, 1, 4)], "command x was acknowledged and is lost"),
        ([command("a", 0, 1, 2)], "command a was acknowledged as index 2, the journal has it as 1"),
        ([command("a", 0, 1, end="fail")], "command a was said not to have run, and has"),
        ([command("a", 0, 1, 1), command("a", 2, 3, 2)], "were told different things"),
    ],
)
def test_a_command_that_is_not_as_told_is_found(calls: list[Call], what: str) -> None:
    """Lost, elsewhere, run although refused, or told in two ways."""
    found = history_checks.not_exactly_once(calls, store())
    assert any(what in line for line in found), found


def test_a_command_that_failed_once_and_was_repeated_is_right() -> None:
    """A failed attempt says nothing of another attempt with the same id."""
    calls = [command("a", 0, 1, end="fail"), command("a", 2, 3, end="unknown")]
    assert history_checks.not_exactly_once(calls, store()) == []


def test_a_command_that_ran_twice_is_found() -> None:
    """Whatever its callers were told."""
    twice = store(*TERMS, *JOURNAL, entry(22, 20, (4, "a")))
    assert "command a took effect 2 times" in history_checks.not_exactly_once([], twice)


def test_an_order_against_time_is_found() -> None:
    """b was acknowledged before a was sent, and yet comes after it."""
    found = history_checks.acknowledged_out_of_order([command("b", 0, 1, 2), command("a", 2, 3, 1)])
    assert found == ["command b was acknowledged as index 2 before a, below it, was first sent"]


def test_a_repeat_does_not_count_as_sent_anew() -> None:
    """What matters is when it was first sent, and first acknowledged."""
    calls = [command("a", 0, 1, end="unknown"), command("b", 2, 3, 2), command("a", 4, 5, 1)]
    assert history_checks.acknowledged_out_of_order(calls) == []


# --- journal and terms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal", "what"),
    [
        ([JOURNAL[0], entry(21, 20, (4, "c"))], "indexes are not 1, 2, 3"),
        ([*JOURNAL, entry(22, 20, (3, "x"), created=21)], "was written twice"),
        ([*JOURNAL, entry(22, 20, (3, "x"))], "indexes are not 1, 2, 3"),
        ([JOURNAL[0], entry(21, 10, (3, "c"))], "was written by term 10 while 20 was in force"),
        ([entry(21, 20, (1, "a"), (2, "b")), entry(22, 10, (3, "c"))], "after"),
    ],
    ids=["gap", "fork", "fork after truncation", "write of a deposed leader", "term that goes back"],
)
def test_a_journal_that_is_broken_is_found(journal: list[Event], what: str) -> None:
    """By the checks of a store, on what was recorded."""
    events = [*TERMS, *journal]
    found = history_checks.safety(events, [], store(*events))
    assert any(what in line for line in found), found


def test_the_record_outlives_truncation() -> None:
    """What is no longer in the store at the end is judged all the same."""
    assert [command.id for command in store().commands] == ["a", "b", "c"]
    assert checks.gaps_and_forks(store()) == []


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
    assert what in history_checks.terms_that_do_not_grow(terms)


def test_a_term_of_a_later_epoch_is_greater_whatever_its_revision() -> None:
    """The epoch comes first."""
    assert history_checks.terms_that_do_not_grow([term(20, "one"), term(10, "two", epoch=2)]) == []


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
def test_a_stream_that_is_broken_is_found(told: list[Event], what: str) -> None:
    """A gap, a repeat, over a reconnect too; another order, another command, an end too soon."""
    found = history_checks.broken_streams(told, store(), 3)
    assert any(what in line for line in found), found


def test_a_reader_that_was_told_to_read_anew_may_begin_elsewhere() -> None:
    """Behind the retained journal it is said so; that is no gap."""
    told = [begin(0), heard(1, "a"), saw("s1", "gone"), begin(2), heard(3, "c")]
    assert history_checks.broken_streams(told, store(), 3) == []


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
    """A lower term, a lower generation, a lower epoch, a term that never was, or an end elsewhere."""
    assert what in history_checks.disobedient_nodes(orders, store())


def test_a_noded_that_starts_anew_may_begin_with_what_it_remembers() -> None:
    """Another nonce is another noded; it too is held to what it has obeyed itself."""
    of = [replace(event, fields={**event.fields, "nonce": "x"}) for event in OBEYED]
    anew = [replace(event, fields={**event.fields, "nonce": "y"}) for event in OBEYED[1:]]
    assert history_checks.disobedient_nodes([*of, *anew], store()) == []
    assert history_checks.disobedient_nodes([*of, *anew, anew[0], anew[-1]], store()) == [
        "n1 obeyed 1.10.2 after 1.20.3"
    ]


def test_a_node_that_disobeyed_once_is_held_to_what_it_had_obeyed_before() -> None:
    """A lower order does not make other lower ones right."""
    found = history_checks.disobedient_nodes([*OBEYED, obeyed(10, 3), obeyed(20, 2), obeyed(20, 3)], store())
    assert found == ["n1 obeyed 1.10.3 after 1.20.3", "n1 obeyed 1.20.2 after 1.20.3"]


def test_a_node_whose_status_is_behind_is_found() -> None:
    """It obeyed, and did not get there."""
    behind = Status(node="n1", nonce="x", host="h", observed_generation=2, phase="ready")
    assert history_checks.disobedient_nodes(OBEYED, replace(store(), status={"n1": behind}))


# --- what is recorded -----------------------------------------------------------------------------------------------


KEYS = Keys("c")


def put(key: str, value: Stored | bytes, revision: int) -> KV:
    raw = value if isinstance(value, bytes) else value.encode()
    return KV(key, raw, revision, revision, 1, 0)


def record(path: Path, *kvs: KV) -> list[Event]:
    """What is written down of these puts, and read back."""
    with Recorder(path, clock=lambda: 11.0) as recorder:
        watched = history_checks.Watched(recorder.seen, KEYS)
        for kv in kvs:
            watched.put(kv)
    return load(path)


def test_an_entry_is_recorded_as_a_watch_shows_it(tmp_path: Path) -> None:
    """Value and revisions come back as they were, and whose write it is."""
    (wanted,) = seen([JOURNAL[0]], "entry")
    kv = put(KEYS.entry(2), wanted.fields["value"].encode(), 11)
    events = record(tmp_path / "history", kv)
    assert store(*events).journal[0][0] == kv
    assert [event.fields for event in seen(events, "wrote")] == [{"key": kv.key, "revision": 11, "term": 10}]


def test_a_term_is_recorded_each_time_it_is_won(tmp_path: Path) -> None:
    """By the put of `leader`: one attempt that wins twice writes over its own record, which is no news of a new key."""

    def term_of(nonce: str, ended: str | None = None) -> TermRecord:
        return TermRecord(id="m", host="h", nonce=nonce, epoch=1, since=0.0, ended=ended)

    def won(nonce: str, revision: int) -> list[KV]:
        return [put(KEYS.leader, b"{}", revision), put(KEYS.term(nonce), term_of(nonce), revision)]

    resigned = put(KEYS.term("one"), term_of("one", "stopped"), 12)
    right = record(tmp_path / "right", *won("one", 10), resigned, *won("two", 13))
    assert [(event.fields["nonce"], event.fields["revision"]) for event in right] == [("one", 10), ("two", 13)]
    assert history_checks.terms_that_do_not_grow(right) == []
    twice = record(tmp_path / "twice", *won("one", 10), resigned, *won("one", 13))
    assert history_checks.terms_that_do_not_grow(twice) == ["attempt one won 2 terms"]


def test_what_a_node_says_it_obeys_is_recorded(tmp_path: Path) -> None:
    """From its status; one that obeys nothing says nothing of it."""
    status = Status(node="n1", nonce="x", host="h", epoch=1, term=20, observed_generation=3, phase="ready")
    idle = Status(node="n1", nonce="x", host="h", phase="idle")
    (event,) = record(tmp_path / "history", put(KEYS.status_of("n1"), idle, 5), put(KEYS.status_of("n1"), status, 6))
    assert (event.process, event.fields) == ("n1", {"epoch": 1, "term": 20, "generation": 3, "nonce": "x"})


@pytest.mark.parametrize(
    "late",
    [
        put(KEYS.entry(2), Entry(epoch=1, term=10, nonce="n", commands=(CommandRecord(
            index=2, id="b", actor="a", time=0.0, name="node.set"),)), 22),
        put(KEYS.desired_of("n1"), Desired(epoch=1, term=10, generation=1, spec=Spec(driver="d")), 22),
        put(KEYS.actions_of("n1"), Actions(epoch=1, term=10), 22),
        put(KEYS.answer("m2"), Answer(term=10, nonce="x"), 22),
    ],
    ids=["entry", "order", "actions", "answer"],
)  # fmt: skip
def test_a_write_of_the_deposed_is_found_whatever_it_is(tmp_path: Path, late: KV) -> None:
    """After its successor's first write; up to then it is the others' business."""
    order = put(KEYS.desired_of("n2"), Desired(epoch=1, term=20, generation=2, spec=Spec(driver="d")), 21)
    wrong = history_checks.writes_after_a_successors_first(record(tmp_path / "late", order, late))
    assert wrong == [f"{late.key} was written by term 10 after {order.key} was by term 20"]
    assert history_checks.writes_after_a_successors_first(record(tmp_path / "before", late, order)) == []


def test_an_entry_that_lacks_something_is_named() -> None:
    """A judge that does not get what it needs says so."""
    with pytest.raises(HistoryError, match=r"entry of watch at 0\.0 lacks value, create_revision, mod_revision"):
        store(saw("watch", "entry", key="journal/1"))
