"""The example applications do what their texts say."""

from __future__ import annotations

from typing import Any

import pytest

from examples.apps.counter import CounterApp
from examples.apps.playlist import PlaylistApp
from masterd.application.contract import Application, HearsNodes, NodeSeen, load_application
from masterd.state_machine.batch import Batch, CommandOutcome, CommandRequest
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from nodestore.errors import Invalid
from nodestore.schema.models import ConfigRecord, Entry, Inventory, Status

WALL = {
    "nodes": {"left": {"position": [0, 0]}, "right": {"position": [0, 1]}},
    "defaults": {"driver": {"name": "process", "settings": {"argv": ["player"]}}},
}


class Bench:
    """An application over a state, one batch a command, each followed as a replica would."""

    def __init__(self, application: Application) -> None:
        self.application, self.state, self.sent = application, State(), 0
        self.derivation = SpecDeriver(application)
        batch = self._batch()
        inventory = Inventory.model_validate(WALL).model_dump(mode="json")
        batch.adopt(ConfigRecord(version=1, actor="t", time=0, inventory=inventory), 1)
        self._follow(batch)

    def _batch(self) -> Batch:
        return Batch(self.state, self.application, self.derivation, 100.0 + self.sent)

    def hear(self, node: str, seen: NodeSeen) -> None:
        assert isinstance(self.application, HearsNodes)
        hears = self.application.node_changed
        batch = self._batch()
        self.sent += 1
        batch.execute(
            CommandRequest(
                f"h{self.sent}",
                "node.changed",
                {},
                node,
                internal_handler=lambda transaction: hears(transaction, node, seen),
            )
        )
        self._follow(batch)

    def _follow(self, batch: Batch) -> None:
        if batch.records:
            self.state.apply(Entry(epoch=1, term=1, nonce="n", commands=tuple(batch.records)))

    def run(self, name: str, args: dict[str, Any] | None = None, known: str = "") -> CommandOutcome:
        self.sent += 1
        batch = self._batch()
        outcome = batch.execute(CommandRequest(known or f"c{self.sent}", name, args or {}, "test", 0))
        assert outcome is not None
        self._follow(batch)
        return outcome


def test_a_repeated_addition_counts_once() -> None:
    bench = Bench(CounterApp())
    assert bench.run("counter.add", {"name": "visitors", "by": 5}, "one").result == 5
    again = bench.run("counter.add", {"name": "visitors", "by": 5}, "one")
    assert (again.result, again.repeated) == (5, True)
    assert bench.run("counter.add", {"name": "visitors"}).result == 6


def test_a_refused_reset_changes_nothing_and_has_no_index() -> None:
    bench = Bench(CounterApp())
    before = bench.state.index
    outcome = bench.run("counter.reset", {"name": "visitors"})
    assert outcome.error is not None
    assert "at 0 already" in str(outcome.error)
    assert bench.state.index == before


def test_a_bad_name_is_told_with_its_field() -> None:
    outcome = Bench(CounterApp()).run("counter.add", {"name": "Visitors!"})
    assert isinstance(outcome.error, Invalid)
    assert "name" in str(outcome.error)


def test_every_node_shows_its_part_of_the_same_item() -> None:
    bench = Bench(PlaylistApp())
    bench.run("playlist.save", {"name": "morning", "items": ["sunrise", "hills"]})
    played = bench.run("player.play", {"playlist": "morning"})
    left, right = bench.derivation["left"].spec, bench.derivation["right"].spec
    assert left is not None
    assert right is not None
    assert (left.document["item"], left.document["column"]) == ("sunrise", 0)
    assert (right.document["item"], right.document["column"]) == ("sunrise", 1)
    assert bench.state.specs["left"].generation == played.index


def test_the_player_goes_on_and_round() -> None:
    bench = Bench(PlaylistApp())
    assert bench.run("player.next").error is not None
    bench.run("playlist.save", {"name": "m", "items": ["a", "b"]})
    shown = [bench.run("player.play", {"playlist": "m"}), bench.run("player.next"), bench.run("player.next")]
    assert [outcome.result["item"] for outcome in shown] == ["a", "b", "a"]
    bench.run("player.stop")
    assert bench.derivation["left"].spec is None


def test_the_player_keeps_a_document_of_the_nodes_that_show_nothing() -> None:
    """It writes only what is new: to be told the same again leaves no trace."""
    bench = Bench(PlaylistApp())
    failed = Status(node="left", nonce="n", host="h", phase="failed", error="no such file: hills.mp4")
    for seen in (NodeSeen(True, None), NodeSeen(True, failed), NodeSeen(True, failed), NodeSeen(False, failed)):
        bench.hear("left", seen)
    assert bench.state.documents["dark"].value == {"left": "it is off"}
    assert bench.state.index == 3  # the adoption, the failure, its end
    bench.hear("left", NodeSeen(True, None))
    assert bench.state.documents["dark"].value == {}


def test_an_application_is_found_by_its_place() -> None:
    assert load_application("examples.apps.counter:CounterApp").name == "counter"
    for wrong in ("nothing.here:App", "examples.apps.counter:Nothing", "examples.apps.counter:Add", "none"):
        with pytest.raises(Invalid):
            load_application(wrong)
