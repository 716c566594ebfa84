"""The demo's judgement, with violations planted: each is found, and a clean run has none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.demo.freeze import find_landed
from nodectl.demo.traffic import Ledger, SentCommand
from nodectl.workload.verdicts import (
    JournalLine,
    Promise,
    Repeat,
    find_duplicates,
    find_journal_faults,
    find_lost,
    find_overwritten,
    find_unknown_effects,
    find_unrecognised,
    find_without_effect,
    gap_around,
    longest_gap,
)


def journal(count: int = 10, first: int = 1, term: int = 5) -> list[JournalLine]:
    """A clean history: one command an entry, two terms."""
    middle = first + count // 2
    return [
        JournalLine(index, index, f"c{index}", "demo", (1, term if index < middle else term + 1))
        for index in range(first, first + count)
    ]


def acknowledged(lines: list[JournalLine]) -> dict[str, int]:
    return {line.id: line.index for line in lines}


def test_a_clean_history_has_no_faults() -> None:
    lines = journal()
    assert find_journal_faults(lines) == []
    assert find_duplicates(lines) == []
    assert find_lost(acknowledged(lines), lines) == []
    assert find_overwritten(lines[:7], lines) == []
    assert find_journal_faults([]) == []


def test_entries_of_several_commands_are_clean_when_they_end_where_their_key_says() -> None:
    lines = [
        JournalLine(3, 1, "a", "x", (1, 1)),
        JournalLine(3, 2, "b", "x", (1, 1)),
        JournalLine(3, 3, "c", "x", (1, 1)),
    ]
    assert find_journal_faults(lines) == []
    assert find_journal_faults(lines[:2]) == ["the entry with key 3 ends at index 2"]


@given(st.integers(1, 8))
def test_a_missing_command_is_a_gap_and_lost_if_it_was_acknowledged(position: int) -> None:
    lines = journal()
    gone = lines.pop(position)
    assert any("gap" in fault for fault in find_journal_faults(lines))
    (fault,) = find_lost(acknowledged(journal()), lines)
    assert gone.id in fault


@given(st.integers(1, 9), st.integers(1, 9))
def test_an_entry_that_comes_again_is_a_fork(position: int, later: int) -> None:
    lines = journal()
    lines.insert(max(position, later) + 1, replace(lines[min(position, later)], id="other"))
    assert any("forks" in fault for fault in find_journal_faults(lines))


def test_an_entry_of_an_older_term_after_a_newer_one_is_found() -> None:
    lines = journal()
    lines[-1] = replace(lines[-1], term=(1, 1))
    assert find_journal_faults(lines) == ["index 10 was written in term 1.1, after term 1.6"]


def test_an_epoch_counts_more_than_a_revision() -> None:
    lines = journal(4)
    lines[-1] = replace(lines[-1], term=(2, 1))
    assert find_journal_faults(lines) == []


def test_an_overwritten_entry_is_found_though_the_history_looks_whole() -> None:
    before, after = journal(), journal()
    after[4] = replace(after[4], id="intruder")
    assert find_journal_faults(after) == []
    (fault,) = find_overwritten(before, after)
    assert fault == "index 5 was c5 and is now intruder"
    (fault,) = find_lost(acknowledged(before), after)
    assert "c5" in fault


def test_a_history_that_is_cut_off_is_found() -> None:
    (fault,) = find_overwritten(journal(10), journal(9))
    assert fault == "index 10 was c10 and is now nothing"


def test_a_command_acknowledged_with_another_index_is_lost() -> None:
    assert len(find_lost({"c3": 4}, journal())) == 1


def test_an_id_at_two_indexes_took_effect_twice() -> None:
    lines = [*journal(), JournalLine(11, 11, "c3", "demo", (1, 6))]
    assert find_duplicates(lines) == ["command c3 took effect 2 times"]


@pytest.mark.parametrize(
    ("repeat", "good"),
    [
        (Repeat("a", 7, 7, True), True),
        (Repeat("a", 7, 8, False), False),
        (Repeat("a", 7, 8, True), False),
        (Repeat("a", 7, 7, False), False),
        (Repeat("a", 7, None, False, "Unavailable"), False),
    ],
)
def test_a_repeat_must_bring_the_first_index_and_say_that_it_is_one(repeat: Repeat, good: bool) -> None:
    assert (find_unrecognised([repeat]) == []) is good


def test_documents_that_are_missing_or_that_nobody_wrote_are_found() -> None:
    assert find_without_effect({"scenes/a", "scenes/b"}, {"scenes/a"}) == ["scenes/b is not in the state"]
    assert find_without_effect({"scenes/a"}, {"scenes/a", "scenes/b"}) == []
    assert find_unknown_effects({"scenes/a"}, {"scenes/a", "scenes/b"}) == [
        "scenes/b is in the state, and no command wrote it"
    ]
    assert find_unknown_effects({"scenes/a"}, set()) == []


def test_a_refused_command_that_is_in_the_history_has_landed() -> None:
    command = SentCommand("c2", "frozen-2", 0, 0.0)
    assert find_landed([command], journal()) == ["command c2 was refused and is index 2"]
    assert find_landed([SentCommand("other", "frozen-2", 0, 0.0)], journal()) == []


def test_many_faults_of_a_kind_are_cut_short_and_counted() -> None:
    faults = find_duplicates([*journal(), *journal()])
    assert len(faults) == 4
    assert faults[-1].startswith("and 7 more")


def test_the_longest_gap_counts_the_borders() -> None:
    assert longest_gap([1.0, 2.0, 5.0], 0.5, 6.0) == 3.0
    assert longest_gap([1.0], 0.0, 10.0) == 9.0
    assert longest_gap([], 0.0, 4.0) == 4.0
    assert longest_gap([-5.0, 20.0], 0.0, 4.0) == 4.0


def test_the_gap_around_a_moment_is_the_longest_that_ends_after_it() -> None:
    assert gap_around([0.0, 5.0, 5.5, 7.5, 7.75], 5.6) == (5.5, 2.0)
    assert gap_around([0.0, 1.0], 5.0) == (5.0, 0.0)


def test_a_promise_holds_only_if_it_was_tried_and_nothing_was_found() -> None:
    promise = Promise("it works")
    assert not promise.held
    promise.judge("once", [], [])
    assert promise.held
    promise.judge("again", ["no"], ["no", "not at all"])
    assert not promise.held
    assert promise.faults == ["no", "not at all"]
    assert promise.measured == "once; again"


def test_the_ledger_gives_each_command_the_index_known_when_it_was_made() -> None:
    ledger = Ledger("n")
    first = ledger.new_command()
    ledger.acknowledge(first, 12)
    second = ledger.new_command("frozen")
    assert (first.after, second.after) == (0, 12)
    assert (first.path, second.path) == ("scenes/tick-00001", "scenes/frozen-00002")
    assert ledger.indexes == {"n-1": 12}
    assert not first.is_unanswered
    assert second.is_unanswered
