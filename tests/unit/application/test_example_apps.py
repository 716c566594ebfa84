"""The example applications behave as their texts describe."""

from __future__ import annotations

import pytest

from examples.apps import counter, playlist
from masterd.application.contract import load_application
from nodesdk import Invalid, Refused
from nodesdk.testing import AppHarness, check_app

WALL = {
    "nodes": {"left": {"position": [0, 0]}, "right": {"position": [0, 1]}},
    "defaults": {"driver": {"name": "process", "settings": {"argv": ["player"]}}},
}


def test_a_repeated_addition_counts_once() -> None:
    """The same id gets the first result; another id counts."""
    harness = AppHarness(counter.app)
    assert harness.send("counter.add", {"name": "visitors", "by": 5}, id="one").result == 5
    again = harness.send("counter.add", {"name": "visitors", "by": 5}, id="one")
    assert (again.result, again.repeated) == (5, True)
    assert harness.run("counter.add", name="visitors") == 6
    assert harness.run("counter.reset", name="visitors") == 6


def test_a_refused_reset_changes_nothing_and_has_no_index() -> None:
    """A refusal is no command in the history."""
    harness = AppHarness(counter.app)
    before = harness.index
    with pytest.raises(Refused, match="at 0 already"):
        harness.run("counter.reset", name="visitors")
    assert harness.index == before


def test_a_bad_name_is_refused_with_its_field() -> None:
    """By the annotation of the parameter."""
    with pytest.raises(Invalid, match="name"):
        AppHarness(counter.app).run("counter.add", name="Visitors!")


def test_every_node_shows_its_part_of_the_same_item() -> None:
    """The generation is the index of the command that changed it."""
    harness = AppHarness(playlist.app, WALL)
    harness.run("playlist.save", name="morning", items=["sunrise", "hills"])
    harness.run("player.play", playlist="morning")
    left, right = harness.spec("left"), harness.spec("right")
    assert left is not None
    assert right is not None
    assert (left.document["item"], left.document["column"]) == ("sunrise", 0)
    assert (right.document["item"], right.document["column"]) == ("sunrise", 1)
    assert harness.generation("left") == harness.index


def test_the_player_goes_on_and_round() -> None:
    """After the last item comes the first."""
    harness = AppHarness(playlist.app, WALL)
    with pytest.raises(Refused):
        harness.run("player.next")
    harness.run("playlist.save", name="m", items=["a", "b"])
    shown = [harness.run("player.play", playlist="m"), harness.run("player.next"), harness.run("player.next")]
    assert [result["item"] for result in shown] == ["a", "b", "a"]
    harness.run("player.stop")
    assert harness.spec("left") is None


def test_the_player_keeps_a_document_of_the_nodes_that_show_nothing() -> None:
    """It writes only what differs: the same report again leaves no trace."""
    harness = AppHarness(playlist.app, WALL)
    failed = "no such file: hills.mp4"
    harness.node_changed("left")
    harness.node_changed("left", phase="failed", error=failed)
    harness.node_changed("left", phase="failed", error=failed)
    assert harness.document("dark") == {"left": failed}
    harness.node_changed("left", present=False, phase="failed", error=failed)
    assert harness.document("dark") == {"left": "it is off"}
    assert harness.index == 3  # the adoption, the failure, its end
    harness.node_changed("left")
    assert harness.document("dark") == {}


def test_a_node_that_left_the_inventory_is_not_dark() -> None:
    """The document changes in the entry that adopts the configuration."""
    harness = AppHarness(playlist.app, WALL)
    harness.node_changed("left", present=False)
    harness.apply_config(["right"])
    assert (harness.document("dark"), harness.index) == ({}, 3)
    assert harness.journal[-1]["writes"] == {"dark": {}}


def _use_counter(harness: AppHarness) -> None:
    harness.run("counter.add", name="visitors")
    harness.run("counter.reset", name="visitors")


def _use_playlist(harness: AppHarness) -> None:
    harness.run("playlist.save", name="m", items=["a", "b"])
    harness.run("player.play", playlist="m")
    harness.node_changed("left", present=False)
    harness.apply_config(["right", "left", "third"])
    harness.run("player.next")


def test_the_examples_keep_the_contract() -> None:
    """Every rule of the check for applications."""
    check_app(counter.app, _use_counter)
    check_app(playlist.app, _use_playlist, WALL)


def test_an_application_is_found_by_its_place() -> None:
    """An application is loaded by module or file and attribute; anything that is no application is refused."""
    assert load_application("examples.apps.counter:app").name == "counter"
    for wrong in ("nothing.here:App", "examples.apps.counter:Nothing", "examples.apps.counter:add", "none"):
        with pytest.raises(Invalid):
            load_application(wrong)
