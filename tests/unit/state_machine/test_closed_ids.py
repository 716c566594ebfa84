"""The question for an outcome: answered by the record of the command, or by one that closes the id."""

from __future__ import annotations

import pytest

from masterd.replication.images import Image, encode_image, load_chunk
from masterd.state_machine.batch import BatchLimits, CommandOutcome, CommandRequest, outcome_question
from masterd.state_machine.closed_ids import COMMAND_CLOSE, is_closed
from masterd.state_machine.remembered import RESULT_BYTES_MAX, check_same_request
from masterd.state_machine.state import State
from nodestore.errors import Conflict, IdClosed, IdReused, NotFound, TooOld
from nodestore.schema.models import Entry, decode
from tests.support.toy_app import Line, replayed, same


def asked(line: Line, command_id: str, after: int = 0) -> CommandOutcome:
    (outcome,) = line.run(outcome_question(command_id, after, "ann"))
    assert outcome is not None
    return outcome


def from_snapshot(state: State) -> State:
    loaded = State()
    for raw in encode_image(Image.of(state), 200):
        load_chunk(loaded, raw, "test")
    return loaded


@pytest.mark.parametrize("batches", [1, 2])
def test_the_outcome_of_a_known_id_is_the_recorded_one(batches: int) -> None:
    """In the same batch and later. Nothing is written, and nothing runs."""
    line = Line()
    command = line.request("add", "x", 0, path="p")
    if batches == 1:
        _, outcome = line.run(command, outcome_question("x", 0, "ann"))
    else:
        line.run(command)
        outcome = asked(line, "x")
    assert outcome is not None
    assert (outcome.index, outcome.result, outcome.closed, outcome.error) == (1, 1, False, None)
    assert line.app.ran == ["add"]
    assert line.state.index == 1


@pytest.mark.parametrize("batches", [1, 2])
def test_an_unknown_id_is_closed_and_its_command_never_runs(batches: int) -> None:
    """The copy of the command may be in the same batch as the question, or in a later one."""
    line = Line()
    question, copy = outcome_question("x", 0, "ann"), line.request("add", "x", 0, path="p")
    outcomes = line.run(question, copy) if batches == 1 else [*line.run(question), *line.run(copy)]
    answer, refused = outcomes
    assert answer is not None
    assert refused is not None
    assert (answer.index, answer.closed, answer.error) == (1, True, None)
    assert isinstance(refused.error, IdClosed)
    assert "closed at index 1" in str(refused.error)
    assert line.app.ran == []
    assert line.state.index == 1
    assert decode(Entry, line.entries[0], "entry").commands[0].name == COMMAND_CLOSE


def test_a_second_question_gets_the_answer_of_the_first() -> None:
    """In the same batch and later, from a replica that replayed the journal, and from one that loaded a snapshot."""
    line = Line()
    first, second = line.run(outcome_question("x", 0, "ann"), outcome_question("x", 0, "bob"))
    assert first is not None
    assert second is not None
    assert (first.index, second.index, second.closed) == (1, 1, True)
    assert same(replayed(line), line.state)
    for state in (line.state, replayed(line), from_snapshot(line.state)):
        line.state = state
        assert (asked(line, "x").index, asked(line, "x").closed) == (1, True)
        assert isinstance(line.one("add", "x", 0, path="p").error, IdClosed)
    assert line.state.index == 1


@pytest.mark.parametrize(
    ("after", "expected"), [(9, TooOld), (10, None), (20, None), (21, Conflict)], ids=["old", "floor", "now", "later"]
)
def test_after_decides_whether_an_unknown_id_can_be_closed(after: int, expected: type[Exception] | None) -> None:
    """Below the floor it cannot be known. Beyond the journal, the id could be forgotten before `after` is too old."""
    line = Line()
    line.state.index, line.state.floor = 20, 10
    outcome = asked(line, "x", after)
    if expected is None:
        assert (outcome.index, outcome.closed) == (21, True)
        return
    assert isinstance(outcome.error, expected)
    assert line.state.index == 20


def test_a_forgotten_closed_id_is_below_the_floor() -> None:
    """So a copy of the command is refused as too old, whatever is remembered."""
    line = Line()
    line.run(line.request("add", "other", 0, path="p"))
    closed = asked(line, "x", 1)
    line.state.floor = closed.index
    line.state.ids.clear()
    assert isinstance(line.one("add", "x", 1, path="p").error, TooOld)
    assert isinstance(asked(line, "x", 1).error, TooOld)


def test_a_refused_command_has_not_taken_effect() -> None:
    """A refusal is not recorded: the id is closed, and a repeat is refused for that reason."""
    line = Line()
    line.one("refuse", "x", 0, path="p")
    assert asked(line, "x").closed
    assert isinstance(line.one("refuse", "x", 0, path="p").error, IdClosed)


def test_a_large_result_is_read_from_the_journal() -> None:
    line = Line()
    line.one("answer", "x", 0, value="v" * RESULT_BYTES_MAX)
    outcome = asked(line, "x")
    assert (outcome.index, outcome.result_in_journal, outcome.closed) == (1, True, False)


def test_a_question_that_does_not_fit_waits_for_the_next_batch() -> None:
    """By the number of commands, or by their bytes."""
    for limits in (BatchLimits(commands_max=1), BatchLimits(batch_bytes_max=200)):
        line = Line(limits=limits)
        outcomes = line.run(line.request("add", "y", 0, path="p"), outcome_question("x", 0, "ann"))
        assert outcomes[1] is None
        assert asked(line, "x").closed


def test_an_application_cannot_record_the_name_of_closed_ids() -> None:
    """Otherwise its command could be taken for a closed id."""
    line = Line()
    assert isinstance(line.one(COMMAND_CLOSE, "x", 0).error, NotFound)
    assert line.state.index == 0


def test_a_leader_of_an_earlier_release_refuses_the_command_too() -> None:
    """It does not know closed ids. What it remembers is the record of a command with another name."""
    line = Line()
    asked(line, "x")
    remembered = replayed(line).ids["x"]
    assert is_closed(remembered.digest)
    with pytest.raises(IdReused):
        check_same_request("x", remembered.digest, "add", {"path": "p"}, remembered.index)


def test_an_ordinary_command_is_not_closed() -> None:
    line = Line()
    line.run(CommandRequest("x", "put", {"path": "p"}, "t", 0))
    assert not is_closed(line.state.ids["x"].digest)
    assert not is_closed(None)
