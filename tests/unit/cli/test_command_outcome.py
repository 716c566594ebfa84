"""`nodectl command-outcome`: what it shows, its exit codes, and the message that names it."""

from __future__ import annotations

import pytest

from nodectl.cli.exit_codes import ExitCode, explain
from nodectl.client.connection.errors import CommandOutcomeUnknown
from nodestore.errors import OutcomeUnknown
from tests.support.cli import CallNodectl
from tests.support.fakes.masterd import FakeCluster


def test_a_command_that_took_effect(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Its result is on stdout, in any form."""
    cluster.execute({"id": "a@b", "name": "do", "args": {}, "actor": "ann"})
    ran = nodectl("command-outcome", "a@b@0")
    assert (ran.code, ran.err) == (0, "it took effect at index 1\n")
    ran = nodectl("command-outcome", "a@b@0", "-o", "json")
    assert (ran.code, ran.json()["took_effect"], ran.json()["index"]) == (0, True, 1)
    assert nodectl("command-outcome", "a@b@0", "-o", "name").out == "1\n"


def test_a_command_that_never_will(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Asked twice, with the same answer; a later copy is refused."""
    for _ in range(2):
        ran = nodectl("command-outcome", "cli-1@0")
        said = "it has not taken effect, and never will: its id was closed at index 1\n"
        assert (ran.code, ran.out, ran.err) == (ExitCode.NOT_FOUND, "", said)
    ran = nodectl("command", "node.set", "{}", "--command-id", "cli-1@0")
    assert ran.code == ExitCode.CONFLICT
    assert "with a new id" in ran.err


def test_a_command_that_is_too_old(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    cluster.floor = 9
    ran = nodectl("command-outcome", "cli-1@8")
    assert ran.code == ExitCode.OUTCOME_UNKNOWN
    assert "it cannot be known any more" in ran.err
    assert "nodectl history" in ran.err


@pytest.mark.parametrize("reference", ["x", "x@", "@5", "x@-1", "x@\N{SUPERSCRIPT TWO}"])
def test_a_malformed_reference_is_refused(cluster: FakeCluster, nodectl: CallNodectl, reference: str) -> None:
    ran = nodectl("command-outcome", "--", reference)
    assert ran.code == ExitCode.USAGE
    assert "does not name a command" in ran.err


def test_the_message_of_an_unknown_outcome_names_the_question() -> None:
    """Ready to be pasted. An unknown outcome of another request has no id."""
    unknown = CommandOutcomeUnknown("no answer", command_id="my id", after=7)
    assert "nodectl command-outcome 'my id@7'" in explain(unknown).hint
    assert "command-outcome" not in explain(OutcomeUnknown("no answer")).hint
