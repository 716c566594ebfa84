"""The judge of single documents: hand-written histories, the same verdict as trying everything, and histories of a
correct register, which are right until something is changed in them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.checkers.history import Call, End, Event
from tests.faults.checkers.linearizable import ABSENT, Documents, check, judge, register, violations


def call(
    op: str, invoked: float, ended: float, value: Any = None, end: End = "ok", key: str = "n1", **result: Any
) -> Call:
    """`value` is what is written, or what a read or a sum gave."""
    fields: dict[str, Any] = {"key": key}
    if op in ("read", "add"):
        result = {"value": value}
    elif op in ("write", "cas"):
        fields["value"] = value
    if op == "cas":
        fields["expected"] = result.pop("expected")
    return Call("c", op, invoked, ended if end == "ok" else math.inf, end, fields, result if end == "ok" else {})


def write(invoked: float, ended: float, value: Any, end: End = "ok") -> Call:
    return call("write", invoked, ended, value, end)


def read(invoked: float, ended: float, value: Any) -> Call:
    return call("read", invoked, ended, value)


def add(invoked: float, ended: float, value: int, end: End = "ok") -> Call:
    return call("add", invoked, ended, value, end)


RIGHT: dict[str, list[Call]] = {
    "nothing at all": [],
    "a read of what was written": [write(0, 1, 5), read(2, 3, 5)],
    "an absent document": [read(0, 1, None)],
    "a read beside a write sees the old": [write(0, 1, 1), write(2, 5, 2), read(3, 4, 1)],
    "a read beside a write sees the new": [write(0, 1, 1), write(2, 5, 2), read(3, 4, 2)],
    "two writes side by side in either order": [write(0, 3, 1), write(1, 4, 2), read(5, 6, 1)],
    "what ends as another begins overlaps it": [write(0, 1, 1), read(1, 2, None)],
    "an unknown write that nobody saw": [write(0, 1, 1), write(2, 3, 2, "unknown"), read(4, 5, 1)],
    "an unknown write that landed late": [
        write(0, 1, 1), write(2, 3, 2, "unknown"), read(4, 5, 1), write(6, 7, 3), read(8, 9, 3), read(10, 11, 2),
    ],
    "a write that failed surely": [write(0, 1, 1), write(2, 3, 2, "fail"), read(4, 5, 1)],
    "a delete": [write(0, 1, 1), call("delete", 2, 3), read(4, 5, None)],
    "a cas that held, and one that did not": [
        write(0, 1, 1), call("cas", 2, 3, 2, expected=1, done=True), call("cas", 4, 5, 3, expected=1, done=False),
        read(6, 7, 2),
    ],
    "sums, one of them unknown and counted": [add(0, 1, 1), add(2, 3, 0, "unknown"), add(4, 5, 3)],
    "sums, one of them unknown and lost": [add(0, 1, 1), add(2, 3, 0, "unknown"), add(4, 5, 2)],
    "the same value again": [write(0, 1, 1), write(2, 3, 2), write(4, 5, 1), read(6, 7, 1)],
    "values that are no numbers": [write(0, 1, {"a": [1], "b": None}), read(2, 3, {"b": None, "a": [1]})],
}  # fmt: skip

WRONG: dict[str, list[Call]] = {
    "a stale read": [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)],
    "a lost write": [write(0, 1, 1), read(2, 3, None)],
    "a value from nowhere": [write(0, 1, 1), read(2, 3, 7)],
    "a value from the future": [read(0, 1, 1), write(2, 3, 1)],
    "a read that goes back while a write is open": [
        write(0, 1, 1), write(2, 9, 2), read(3, 4, 2), read(5, 6, 1),
    ],
    "an unknown write that came and went": [
        write(0, 1, 1), write(2, 3, 2, "unknown"), read(4, 5, 2), read(6, 7, 1),
    ],
    "an unknown write that landed before it was asked for": [read(0, 1, 2), write(2, 3, 2, "unknown")],
    "a write that failed surely, and did not": [write(0, 1, 1), write(2, 3, 2, "fail"), read(4, 5, 2)],
    "two readers that disagree on the order": [
        write(0, 9, 1), write(0, 9, 2), read(1, 2, 1), read(3, 4, 2), read(5, 6, 1),
    ],
    "a cas that held on what was not there": [write(0, 1, 1), call("cas", 2, 3, 2, expected=5, done=True)],
    "a cas that did not hold on what was there": [write(0, 1, 1), call("cas", 2, 3, 2, expected=1, done=False)],
    "a sum that counts one twice": [add(0, 1, 1), add(2, 3, 3)],
    "a sum that counts an unknown one twice": [add(0, 1, 1), add(2, 3, 0, "unknown"), add(4, 5, 4)],
    "a sum that forgets one": [add(0, 1, 1), add(2, 3, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_history_is_accepted(name: str) -> None:
    """A history that some order of the calls explains is accepted."""
    assert check(RIGHT[name]).kind == "linearizable"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_history_is_rejected(name: str) -> None:
    """A history that no order of the calls explains is rejected."""
    assert check(WRONG[name]).kind == "violated"


def test_a_violation_names_the_call_and_what_was_possible() -> None:
    """So that a person finds the place."""
    found = check([write(0, 1, 1), write(2, 3, 2), write(3.5, 9, 4), read(4, 5, 1)])
    assert found.why == (
        "read key='n1' value=1 of c (4.000 to 5.000 s, ok) fits nowhere: before it the document was 2; "
        "open meanwhile: write key='n1' value=4 of c (3.500 to 9.000 s, ok)"
    )


def test_each_document_is_judged_by_itself() -> None:
    """One that is wrong does not hide behind others, and calls of other kinds are passed over."""
    history = [write(0, 1, 1), call("read", 2, 3, 1), call("read", 2, 3, 1, key="n2"), Call("c", "command", 0, 1, "ok")]
    verdicts = judge(history)
    assert {key: found.kind for key, found in verdicts.items()} == {"n1": "linearizable", "n2": "violated"}
    assert len(violations(verdicts)) == 1
    assert violations(verdicts)[0].startswith("n2 is not linearizable: read")


def test_too_much_overlap_is_given_up_and_said() -> None:
    """A search that is too large is given up.

    This is reported and counts as a failure, because the document was not checked.
    """
    many = [add(0, 100, 0, "unknown") for _ in range(40)]
    verdicts = judge([*many, add(1, 2, 20)], tries_max=1_000)
    assert verdicts["n1"].kind == "gave up"
    assert violations(verdicts)[0].startswith("gave up on n1: 41 calls are open at the end of add")


def test_what_may_be_tried_is_for_one_call_not_for_all_of_a_history() -> None:
    """However long it is: five clients write side by side, again and again, and each time something is to be tried."""
    rounds = [write(10 * turn, 10 * turn + 5, f"{turn} {client}") for turn in range(300) for client in range(5)]
    found = check(rounds, tries_max=500)
    assert found.kind == "linearizable", found.why
    assert found.tried > 10 * 500
    assert check(rounds[:5], tries_max=20).kind == "gave up"


def test_many_unknown_writes_that_nobody_read_cost_nothing() -> None:
    """They may as well never have happened."""
    lost = [write(0, 1, number, "unknown") for number in range(2, 500)]
    found = check([write(0, 1, 1), *lost, *(read(2 + number, 3 + number, 1) for number in range(100))])
    assert found.kind == "linearizable"
    assert found.tried < 100


def test_many_unknown_writes_that_all_landed_late_are_not_tried_in_every_combination() -> None:
    """Of two possibilities, the one that has used up fewer of them can do all that the other can."""
    late = [write(0, 1, f"late {number}", "unknown") for number in range(20)]
    work = [write(2 + number, 2.5 + number, number) for number in range(20)]
    reads = [read(30 + number, 30.5 + number, f"late {number}") for number in range(20)]
    found = check([*late, *work, *reads])
    assert found.kind == "linearizable", found.why
    assert check([*late, *work, *reads, read(60, 61, "late 3")]).kind == "violated"


def test_an_operation_that_nobody_knows_is_refused() -> None:
    """A judge that passes over what it does not understand would accept anything."""
    with pytest.raises(ValueError, match="'jump'"):
        check([call("jump", 0, 1)])


# --- the same as trying everything ----------------------------------------------------------------------------------


def by_trying_everything(history: Sequence[Call]) -> bool:
    """Whether some order of the calls, and of any of the unknown ones, fits: slow, and plainly right."""
    sure = [item for item in history if item.end == "ok"]
    maybe = [item for item in history if item.end == "unknown"]
    return any(
        _fits(order)
        for count in range(len(maybe) + 1)
        for taken in itertools.combinations(maybe, count)
        for order in itertools.permutations([*sure, *taken])
    )


def _fits(order: Sequence[Call]) -> bool:
    if any(later.ended < earlier.invoked for earlier, later in itertools.combinations(order, 2)):
        return False
    state = ABSENT
    for item in order:
        after = register(state, item)
        if after is None:
            return False
        state = after
    return True


@st.composite
def any_call(draw: st.DrawFn) -> Call:
    op = draw(st.sampled_from(["write", "read", "delete", "cas", "add"]))
    begin = draw(st.integers(0, 8))
    end: End = draw(st.sampled_from(["ok", "ok", "ok", "unknown", "fail"]))
    value, until = draw(st.sampled_from([1, 2])), begin + draw(st.integers(0, 6))
    if op == "cas":
        return call(
            op, begin, until, value, end, expected=draw(st.sampled_from([None, 1, 2])), done=draw(st.booleans())
        )
    if op == "add":
        return add(begin, until, draw(st.integers(1, 4)), end)
    if op == "read":
        return read(begin, until, draw(st.sampled_from([None, 1, 2, 3])))
    return call(op, begin, until, value, end)


@settings(max_examples=400, deadline=None)
@given(st.lists(any_call(), max_size=5))
def test_the_verdict_is_that_of_trying_everything(history: list[Call]) -> None:
    """On whatever history, possible or not."""
    assert check(history).kind == ("linearizable" if by_trying_everything(history) else "violated")


# --- as it is read --------------------------------------------------------------------------------------------------


def events_of(history: Sequence[Call]) -> list[Event]:
    """What a recorder would have written of these calls; the ends of unknown ones come last."""
    begins = [(item.invoked, 0, number) for number, item in enumerate(history, 1)]
    ends = [(min(item.ended, 1e6), 1, number) for number, item in enumerate(history, 1)]
    made = []
    for at, is_end, number in sorted([*begins, *ends]):
        item = history[number - 1]
        if is_end:
            made.append(Event(at, item.process, item.end, number, "", item.result))
        else:
            made.append(Event(at, item.process, "invoke", number, item.op, item.fields))
    return made


def fed(history: Sequence[Call]) -> str:
    """The verdict on one document whose calls are fed one by one."""
    documents = Documents()
    for event in events_of(history):
        if event.type == "invoke":
            documents.begin(event)
        elif event.call is not None:
            documents.end(event.call, history[event.call - 1])
    return next((found.kind for found in documents.verdicts().values()), "linearizable")


@pytest.mark.parametrize("name", [*RIGHT, *WRONG])
def test_a_history_that_is_fed_gets_the_same_verdict(name: str) -> None:
    """One by one, as it is read from a file; documents that are written as a whole."""
    history = (RIGHT | WRONG)[name]
    if all(item.op in ("read", "write", "delete") for item in history):
        assert fed(history) == check(history).kind


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_a_fed_history_of_a_register_gets_the_same_verdict(seed: int, change: bool) -> None:
    """Right or wrong, with calls that got lost."""
    dice = random.Random(seed)
    history: list[Call] | None = of_a_correct_register(dice, 40)
    if change:
        history = dice.choice([stale, invented, lost, swapped])(history or [], dice)
    if history:
        assert fed(history) == check(history).kind


# --- histories of a correct register --------------------------------------------------------------------------------


def of_a_correct_register(dice: random.Random, length: int, clients: int = 4) -> list[Call]:
    """A history of a correct register.

    Each call takes effect at one moment between its ends, some replies are lost, and some calls never happen. Each
    write has its own value.
    """
    history: list[Call] = []
    free = [0.0] * clients
    moments = sorted(dice.uniform(0, length) for _ in range(length))
    value: int | None = None
    for number, moment in enumerate(moments, start=1):
        client = min(range(clients), key=lambda one: (max(free[one], moment - 3), dice.random()))
        begin = min(moment, max(free[client], moment - dice.uniform(0, 3)))
        if free[client] > moment:
            continue
        free[client] = end = moment + dice.uniform(0, 3)
        if dice.random() < 0.5:
            history.append(read(begin, end, value))
            continue
        fate = dice.random()
        if fate > 0.1:
            value = number
        history.append(write(begin, end, number, "ok" if fate > 0.25 else "unknown" if fate > 0.05 else "fail"))
    return sorted(history, key=lambda item: item.invoked)


def stale(history: list[Call], dice: random.Random) -> list[Call] | None:
    """A read returns a value that was overwritten before the read began."""
    found = [
        (number, old.fields["value"])
        for number, look in enumerate(history)
        for old, new in itertools.permutations([item for item in history if item.op == "write" and item.end == "ok"], 2)
        if look.op == "read" and old.ended < new.invoked and new.ended < look.invoked
    ]
    return _with_read(history, *dice.choice(found)) if found else None


def invented(history: list[Call], dice: random.Random) -> list[Call] | None:
    """A read returns a value that was never written."""
    found = [number for number, item in enumerate(history) if item.op == "read"]
    return _with_read(history, dice.choice(found), "invented") if found else None


def lost(history: list[Call], dice: random.Random) -> list[Call] | None:
    """A write that was read was never asked for."""
    seen = {item.result["value"] for item in history if item.op == "read"}
    found = [item for item in history if item.op == "write" and item.fields["value"] in seen]
    if not found:
        return None
    gone = dice.choice(found)
    return [item for item in history if item is not gone]


def swapped(history: list[Call], dice: random.Random) -> list[Call] | None:
    """Two reads that gave different values give each other's."""
    pairs = [
        (one, other)
        for one, other in itertools.combinations([n for n, item in enumerate(history) if item.op == "read"], 2)
        if history[one].result != history[other].result
    ]
    if not pairs:
        return None
    one, other = dice.choice(pairs)
    changed = _with_read(history, one, history[other].result["value"])
    return _with_read(changed, other, history[one].result["value"])


def _with_read(history: list[Call], number: int, value: Any) -> list[Call]:
    return [*history[:number], replace(history[number], result={"value": value}), *history[number + 1 :]]


SEEDS = st.integers(0, 1 << 32)


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.integers(0, 60))
def test_what_a_correct_register_did_is_accepted(seed: int, length: int) -> None:
    """Whatever overlapped, got lost, or never happened."""
    history = of_a_correct_register(random.Random(seed), length)
    found = check(history)
    assert found.kind == "linearizable", found.why


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.sampled_from([stale, invented, lost]))
def test_what_no_register_did_is_rejected(
    seed: int, change: Callable[[list[Call], random.Random], list[Call] | None]
) -> None:
    """These changes can never be explained by another order."""
    dice = random.Random(seed)
    changed = change(of_a_correct_register(dice, 40), dice)
    assert changed is None or check(changed).kind == "violated"


def test_most_swapped_reads_are_rejected() -> None:
    """Some fit another order; the most do not."""
    dice = random.Random(7)
    changed = [swapped(of_a_correct_register(dice, 40), dice) for _ in range(200)]
    kinds = [check(history).kind for history in changed if history is not None]
    assert len(kinds) > 150
    assert kinds.count("violated") > 0.7 * len(kinds)


def test_a_long_history_is_judged_without_giving_up() -> None:
    """Thousands of calls of eight clients on one document."""
    history = of_a_correct_register(random.Random(11), 5_000, clients=8)
    found = check(history)
    assert found.kind == "linearizable", found.why
    assert check(
        _with_read(history, next(n for n, c in enumerate(history) if n > 2_000 and c.op == "read"), -1)
    ).kind == ("violated")
