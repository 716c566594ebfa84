"""The checks of a store find what they are there to find: each with a violation planted."""

from __future__ import annotations

from dataclasses import replace

from masterd.state_machine.specs import DerivedSpec
from nodestore.etcd.session import KV
from nodestore.schema.models import Applied, CommandRecord, Desired, Entry, Head, Spec, SpecMark, Status, TermRecord
from tests.faults.checkers import store_checks
from tests.faults.checkers.store_checks import Store

SPEC = Spec(driver="d", document={"x": 2})


def entry(revision: int, term: int, *commands: CommandRecord, created: int | None = None) -> tuple[KV, Entry]:
    key = f"journal/{commands[-1].index:016d}"
    made = Entry(epoch=1, term=term, nonce="n", commands=commands)
    return KV(key, b"", created or revision, revision, 1, 0), made


def command(index: int, known: str = "", **more: object) -> CommandRecord:
    fields = {"index": index, "id": known or f"c{index}", "actor": "a", "time": 0.0, "name": "node.set", **more}
    return CommandRecord.model_validate(fields)


def term(revision: int, nonce: str) -> tuple[int, TermRecord]:
    return revision, TermRecord(id="m", host="h", nonce=nonce, epoch=1, since=0.0)


def good() -> Store:
    """Two terms, three commands, one node that is where it should be."""
    marks = {"n1": SpecMark(generation=3, hash=DerivedSpec.of(SPEC).hash)}
    return Store(
        journal=(
            entry(11, 10, command(1, writes={"a": {"x": 1}}), command(2)),
            entry(21, 20, command(3, writes={"a": {"x": 2}}, specs=marks)),
        ),
        terms=(term(10, "one"), term(20, "two")),
        head=Head(index=3, nonce="n"),
        applied=Applied(index=3, base=3),
        state={"a": {"index": 3, "document": {"x": 2}}},
        desired={"n1": Desired(epoch=1, term=20, generation=3, spec=SPEC)},
        status={"n1": Status(node="n1", nonce="x", host="h", observed_generation=3, phase="ready")},
    )


ACKNOWLEDGED = {"c1": 1, "c2": 2, "c3": 3}


def test_a_good_store_has_nothing_wrong() -> None:
    store = good()
    assert store_checks.safety(store, ACKNOWLEDGED) == []
    assert store_checks.views_that_differ(store) == []
    assert store_checks.nodes_behind(store) == []


def test_a_gap_is_found() -> None:
    store = replace(good(), journal=(good().journal[0], entry(21, 20, command(4))))
    assert store_checks.gaps_and_forks(store)


def test_a_head_beyond_the_journal_is_found() -> None:
    assert store_checks.gaps_and_forks(replace(good(), head=Head(index=4, nonce="n")))


def test_an_entry_written_twice_is_found() -> None:
    """An unfenced deposed leader overwrites what its successor committed under the same index."""
    store = replace(good(), journal=(good().journal[0], entry(23, 20, command(3), created=21)))
    assert store_checks.gaps_and_forks(store)


def test_a_term_that_goes_back_is_found() -> None:
    first, second = good().journal
    store = replace(good(), journal=(entry(21, 20, *first[1].commands), entry(22, 10, *second[1].commands)))
    assert store_checks.terms_that_do_not_grow(store)


def test_a_write_after_the_successor_is_found() -> None:
    store = replace(good(), journal=(good().journal[0], entry(21, 10, command(3))))
    assert store_checks.writes_of_deposed_leaders(store)


def test_a_lost_acknowledgement_is_found() -> None:
    assert store_checks.lost_or_doubled(good(), {**ACKNOWLEDGED, "c9": 4})


def test_a_command_that_ran_twice_is_found() -> None:
    store = replace(good(), journal=(good().journal[0], entry(21, 20, command(3, "c1"))))
    assert store_checks.lost_or_doubled(store, {})


def test_a_result_at_another_index_is_found() -> None:
    assert store_checks.lost_or_doubled(good(), {"c1": 2})


def test_a_view_that_is_behind_is_found() -> None:
    assert store_checks.views_that_differ(replace(good(), state={"a": {"index": 1, "document": {"x": 1}}}))
    assert store_checks.views_that_differ(replace(good(), state={}))
    assert store_checks.views_that_differ(replace(good(), desired={}))
    assert store_checks.views_that_differ(replace(good(), applied=Applied(index=3, base=2, through="a")))


def test_an_order_with_another_spec_is_found() -> None:
    """The spec is compared too, not only its generation."""
    other = Desired(epoch=1, term=20, generation=3, spec=Spec(driver="d", document={"x": 1}))
    assert store_checks.views_that_differ(replace(good(), desired={"n1": other})) == ["desired/n1 differs"]


def test_a_node_that_is_behind_is_found() -> None:
    behind = Status(node="n1", nonce="x", host="h", observed_generation=2, phase="ready")
    assert store_checks.nodes_behind(replace(good(), status={"n1": behind}))
    assert store_checks.nodes_behind(replace(good(), status={}))
