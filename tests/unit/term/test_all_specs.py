"""The specs of all nodes are derived although the application hangs for some of them, or is slow, or fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from masterd.application.contract import Command
from masterd.application.worker import Worker
from masterd.state_machine.batch import Batch
from masterd.term.derivation.all_specs import DerivationLimits, DerivedSpecs, derive_all, hung_reason
from nodestore.schema.models import Inventory, Spec
from tests.support.toy_app import Line, ToyApp
from tests.support.waiting import eventually


class _Hangs(ToyApp):
    """Loops for some nodes, and takes a while for each other one."""

    def __init__(self, *nodes: str, each_s: float = 0.0) -> None:
        super().__init__()
        self.nodes, self.each_s = nodes, each_s
        self.asked: list[str] = []

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        self.asked.append(node)
        while node in self.nodes:
            pass
        time.sleep(self.each_s)
        return super().desired(config, view, node)


def _line(nodes: int) -> Line:
    line = Line(*(f"n{number}" for number in range(nodes)))
    for number in range(nodes):
        line.one("put", f"x{number}", 0, path=f"nodes/n{number}", document={"x": number})
    return line


async def _derive(line: Line, application: ToyApp, limits: DerivationLimits, **hung: str) -> DerivedSpecs:
    worker = Worker()
    derived = await derive_all(
        lambda deriver: Batch(line.state, application, deriver, line.now), application, worker, limits, hung
    )
    assert await worker.run(lambda _: threading.current_thread().name, 5.0) == "application"
    worker.close()
    await eventually(lambda: worker.hung_count == 0, "the threads that hung have ended")
    return derived


async def test_a_node_that_hangs_is_left_out_and_the_others_are_derived() -> None:
    """Two such nodes cost one limit each, whatever the number of nodes."""
    line, application = _line(6), _Hangs("n2", "n4")
    derived = await _derive(line, application, DerivationLimits(0.1, 20.0))
    assert derived.hung == {node: hung_reason(node, 0.1) for node in ("n2", "n4")}
    assert derived.spec_deriver.failed == derived.hung
    assert sorted(derived.spec_deriver.nodes) == ["n0", "n1", "n3", "n5"]
    assert derived.matches_recorded
    assert (application.asked.count("n2"), application.asked.count("n4")) == (1, 1)


async def test_a_node_that_is_known_to_hang_is_not_asked_for() -> None:
    """A removal from the mapping, between two derivations, makes it one like the others."""
    line, application = _line(3), _Hangs()
    derived = await _derive(line, application, DerivationLimits(0.1, 20.0), n1="it hung")
    assert "n1" not in application.asked
    assert derived.spec_deriver.failed == {"n1": "it hung"}
    derived.hung.pop("n1")
    batch = Batch(line.state, application, derived.spec_deriver, line.now)
    assert batch.respec("m1", "nonce") is None  # its spec is the recorded one
    assert derived.spec_deriver.failed == {}
    assert derived.spec_deriver.affected(["nodes/n1"]) == ["n1"]


async def test_after_some_nodes_that_hang_the_rest_is_not_asked_for() -> None:
    """Otherwise an application that hangs for a thousand nodes would delay the term by a thousand limits."""
    line, application = _line(9), _Hangs("n1", "n2", "n3", "n4", "n5")
    derived = await _derive(line, application, DerivationLimits(0.05, 20.0))
    assert sorted(derived.spec_deriver.failed) == ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"]
    assert derived.hung["n7"] == "not derived: the application hung for 3 other nodes"
    assert derived.spec_deriver["n0"].hash == line.state.spec_hash("n0") != ""
    assert {"n4", "n5", "n6"}.isdisjoint(application.asked)


async def test_nodes_that_together_take_too_long_are_left_out() -> None:
    """Each one alone is within its limit."""
    line, application = _line(8), _Hangs(each_s=0.05)
    derived = await _derive(line, application, DerivationLimits(5.0, 0.12))
    assert derived.hung["n7"] == "not derived: all nodes together took longer than 0.12 s"
    assert "n0" in derived.spec_deriver.nodes
    assert derived.matches_recorded


@pytest.mark.parametrize("hangs", [True, False])
async def test_an_application_that_does_not_list_its_commands_stops_no_leader(hangs: bool) -> None:
    """The specs are derived, and no command counts as quick."""

    class Listless(ToyApp):
        def commands(self) -> Mapping[str, Command]:
            while hangs:
                pass
            raise SystemExit("as asked")

    line = _line(2)
    derived = await _derive(line, Listless(), DerivationLimits(0.1, 20.0))
    assert (derived.quick_commands, derived.hung, derived.matches_recorded) == (frozenset(), {}, True)
