"""Commands that are submitted more than once: each id takes effect once. Also run with deduplication disabled."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from masterd.state_machine.batch import CommandRequest
from tests.support.toy_app import Line


def repeat_within_a_batch_gets_the_first_result() -> None:
    """A repeat in the same batch is not run: it returns the first result and is marked as repeated."""
    line = Line("n1")
    add = line.request("add", "x", 1, path="p")
    first, again, other = line.run(add, add, line.request("add", "y", 1, path="p"))
    assert first is not None
    assert again is not None
    assert other is not None
    assert (first.result, again.result, other.result) == (1, 1, 2)
    assert (again.index, again.repeated, first.repeated) == (first.index, True, False)
    assert line.app.ran == ["add", "add"]


def repeat_in_a_later_batch_gets_the_first_result() -> None:
    """A repeat in a later batch returns the first result, also after a deletion."""
    line = Line("n1")
    line.one("add", "x", 1, path="p")
    line.one("delete", path="p")
    again = line.one("add", "x", 1, path="p")
    assert (again.result, again.index, again.repeated) == (1, 2, True)
    assert line.document("p") is None
    assert line.app.ran == ["add"]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 5),
)
def each_id_takes_effect_once(sent: list[tuple[str, bool]], size: int) -> None:
    """Each id has one effect and one result, however often it is sent and in whatever batches.

    Some of the batches are not committed.
    """
    line = Line()
    results: dict[str, tuple[int, Any]] = {}
    for start in range(0, len(sent), size):
        batch, outcomes = line.batch(), []
        for id_, _ in sent[start : start + size]:
            outcomes.append(batch.execute(CommandRequest(id_, "add", {"path": "p"}, "t", 0)))
        if not sent[start][1] and batch.records:
            batch.undo_derivation()
            continue
        if batch.records:
            line.commit(batch)
        for outcome in outcomes:
            assert outcome is not None
            assert results.setdefault(outcome.id, (outcome.index, outcome.result)) == (outcome.index, outcome.result)
    assert (line.document("p") or {"sum": 0})["sum"] == len(results)
