"""Specs that are derived while a takeover is in flight are used only for the state with which the term begins."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from masterd.application import worker as worker_module
from masterd.replication.replica import Replica
from masterd.term.derivation.all_specs import DerivationLimits
from masterd.term.derivation.warm_start import WarmStart
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, Spec
from tests.support.toy_app import Line, ToyApp
from tests.support.waiting import eventually


class _Hangs(ToyApp):
    """An application whose `desired` never returns for n1."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        self.asked.append(node)
        while node == "n1":
            pass
        return super().desired(config, view, node)


class _Other(ToyApp):
    """A version that derives something else from the same documents."""

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        spec = super().desired(config, view, node)
        return spec and Spec(driver="new", document=spec.document)


def _line() -> Line:
    line = Line("n1", "n2")
    line.one("put", "x1", 0, path="nodes/n1", document={"x": 1})
    return line


def _warm_start(line: Line, application: ToyApp | None = None, limit_s: float = 5.0) -> WarmStart:
    replica = Replica(cast(Any, None), Keys("test"))
    replica.state = line.state
    return WarmStart(replica, application or ToyApp(), DerivationLimits(limit_s, 20.0))


async def test_what_is_derived_ahead_is_what_the_leader_would_derive() -> None:
    """And it is known whether the state has recorded the same."""
    line = _line()
    warm_start = _warm_start(line)
    warm_start.start()
    found = await warm_start.take(line.state)
    assert found is not None
    assert found.specs.matches_recorded
    assert found.specs.spec_deriver["n1"] == line.derivation["n1"]
    assert found.specs.spec_deriver.affected(["nodes/n1"]) == ["n1"]


async def test_another_version_of_the_application_is_seen_to_differ() -> None:
    line = _line()
    warm_start = _warm_start(line, _Other())
    warm_start.start()
    found = await warm_start.take(line.state)
    assert found is not None
    assert not found.specs.matches_recorded


async def test_it_counts_for_no_other_state() -> None:
    """Prepared specs are dropped if an entry was applied or the state was read again.

    They are used once, because a leader changes them.
    """
    line = _line()
    warm_start = _warm_start(line)
    assert await warm_start.take(line.state) is None
    warm_start.start()
    await asyncio.sleep(0)
    line.one("put", "x2", 0, path="nodes/n2", document={"x": 2})
    assert await warm_start.take(line.state) is None
    warm_start.start()
    assert await warm_start.take(_line().state) is None
    warm_start.start()
    assert await warm_start.take(line.state) is not None
    assert await warm_start.take(line.state) is None


async def test_a_node_whose_spec_cannot_be_derived_is_left_out() -> None:
    """The other nodes' specs are used, and the failure is reported with them."""
    line = _line()
    line.state.documents["nodes/n1"].value["poison"] = True
    warm_start = _warm_start(line)
    warm_start.start()
    found = await warm_start.take(line.state)
    assert found is not None
    assert list(found.specs.spec_deriver.failed) == ["n1"]
    assert found.specs.matches_recorded


async def test_an_application_that_hangs_is_not_asked_twice() -> None:
    """The leader does not derive that node again after a timeout; it has the specs of the others."""
    line, application = _line(), _Hangs()
    line.one("put", "x2", 0, path="nodes/n2", document={"x": 2})
    warm_start = _warm_start(line, application, limit_s=0.1)
    warm_start.start()
    found = await warm_start.take(line.state)
    assert found is not None
    why = "the application did not return from desired(node n1) within 0.1 s"
    assert (found.specs.hung, found.specs.spec_deriver.failed) == ({"n1": why}, {"n1": why})
    assert found.specs.spec_deriver["n2"].hash == line.state.spec_hash("n2") != ""
    assert found.specs.matches_recorded
    assert application.asked.count("n1") == 1


class _Blocks(_Hangs):
    """An application that blocks outside Python for n1: its thread cannot be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        self.asked.append(node)
        if node == "n1":
            self.release.wait(30)
        return ToyApp.desired(self, config, view, node)


async def test_takeovers_do_not_collect_threads_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """While too many hang, a node for which one of them hangs is left out unasked, and the others are derived. Once
    they have ended, it is asked for again."""
    line, application = _line(), _Blocks()
    await eventually(lambda: not worker_module.hung_nodes(), "no thread of an earlier test is left")
    monkeypatch.setattr(worker_module, "HUNG_THREADS_MAX", 3)
    line.one("put", "x2", 0, path="nodes/n2", document={"x": 2})
    warm_start, reasons = _warm_start(line, application, limit_s=0.05), []
    for _ in range(6):
        warm_start.start()
        found = await warm_start.take(line.state)
        assert found is not None
        assert found.specs.spec_deriver["n2"].hash == line.state.spec_hash("n2")
        reasons.append(found.specs.hung["n1"])
    assert application.asked.count("n1") == 3
    assert "too many threads of this process hang" in reasons[-1]
    application.release.set()
    await eventually(lambda: not worker_module.hung_nodes(), "the threads have ended")
    warm_start.start()
    found = await warm_start.take(line.state)
    assert found is not None
    assert not found.specs.hung


class _SlowOnce(ToyApp):
    """Hangs when it is asked first, and never again."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        if not self.begun.is_set():
            self.begun.set()
            self.end.wait(20.0)
        return super().desired(config, view, node)


async def test_that_it_hung_over_another_state_is_no_reason_to_give_up() -> None:
    """The takeover was lost; a later one is of another state, which is derived as usual."""
    line, application = _line(), _SlowOnce()
    warm_start = _warm_start(line, application, limit_s=0.1)
    warm_start.start()
    (deriving,) = [task for task in asyncio.all_tasks() if task.get_name() == "derive all specs ahead of the term"]
    await asyncio.wait({deriving})
    line.one("put", "x2", 0, path="nodes/n2", document={"x": 2})
    assert await warm_start.take(line.state) is None
    application.end.set()


async def test_what_can_come_to_nothing_is_not_waited_for() -> None:
    """The state has grown while it was derived; and a new takeover derives from the new state."""
    line, application = _line(), _SlowOnce()
    warm_start = _warm_start(line, application, limit_s=20.0)
    warm_start.start()
    assert await asyncio.to_thread(application.begun.wait, 20.0)
    line.one("put", "x2", 0, path="nodes/n2", document={"x": 2})
    warm_start.start()
    found = await warm_start.take(line.state)
    assert found is not None
    assert found.index == line.state.index
    application.end.set()
