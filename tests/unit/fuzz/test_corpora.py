"""Every parser survives the inputs of its corpus, and a target notices a parser that does not."""

from __future__ import annotations

import pytest

from tests.fuzz import corpora
from tests.fuzz.target import Disagreement, Target, agree
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_survives_its_corpus(name: str) -> None:
    """The inputs that were kept: some are accepted, or the target would test refusals only."""
    accepted = [TARGETS[name].run(item) for item in corpora.load(name)]
    assert True in accepted


def test_every_corpus_has_a_target() -> None:
    assert {path.stem for path in corpora.FOLDER.glob("*.txt")} == set(TARGETS)


def test_an_error_that_is_no_refusal_is_raised() -> None:
    target = Target("numbers", lambda data: 1 / len(data), (ValueError,))
    assert target.run(b"x")
    with pytest.raises(ZeroDivisionError):
        target.run(b"")


def test_a_refusal_without_a_message_is_a_failure() -> None:
    def refuse(_: bytes) -> None:
        raise ValueError("")

    with pytest.raises(Disagreement):
        Target("silent", refuse, (ValueError,)).run(b"")


def test_two_readers_that_differ_are_a_failure() -> None:
    agree("the same", 1, 1)
    with pytest.raises(Disagreement, match="numbers: 1 and 2"):
        agree("numbers", 1, 2)


def test_a_corpus_is_read_as_it_was_written(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "FOLDER", tmp_path)
    assert corpora.save("x", [b"a\n\xff'\"", b"", b"a", b"a"]) == 3
    assert corpora.load("x") == [b"", b"a", b"a\n\xff'\""]
