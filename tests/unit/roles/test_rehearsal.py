"""The rehearsal of a takeover: what it finds, when it runs, and that a node that hangs counts as one that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from masterd.application import worker as worker_module
from masterd.replication.replica import Replica
from masterd.roles import rehearsal as rehearsal_module
from masterd.roles.leadership import Leadership
from masterd.roles.rehearsal import Rehearsal
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, Spec
from tests.support.toy_app import Line, ToyApp, inventory, same
from tests.support.waiting import eventually


class _Blocks(ToyApp):
    """Does not answer for n1 before it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release, self.asked = threading.Event(), 0

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        self.asked += 1
        if node == "n1":
            self.release.wait(30)
        return super().desired(config, view, node)


def _line() -> Line:
    line = Line("n1", "n2", "n3")
    line.one("put", "x1", 0, path="nodes/n1", document={"x": 1})
    line.one("put", "x2", 0, path="nodes/n2", document={"x": 2})
    return line


@asynccontextmanager
async def _rehearsing(
    line: Line, application: ToyApp, monkeypatch: pytest.MonkeyPatch, limit_s: float = 5.0, leads: bool = False
) -> AsyncIterator[Rehearsal]:
    monkeypatch.setattr(rehearsal_module, "_CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(rehearsal_module, "_SLICE_S", 0.0)  # one node a slice
    replica, leadership = Replica(cast(Any, None), Keys("test")), Leadership()
    replica.state, replica.problem = line.state, None
    leadership.leader = cast(Any, object()) if leads else None
    rehearsal = Rehearsal(replica, application, leadership, limit_s)
    running = asyncio.create_task(rehearsal.run())
    yield rehearsal
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_nodes_that_fail_or_differ_are_reported_and_the_state_is_not_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a failure is a problem."""
    line, untouched = _line(), _line()
    line.state.documents["nodes/n1"].value["poison"] = untouched.state.documents["nodes/n1"].value["poison"] = True
    line.state.documents["nodes/n2"].value["x"] = untouched.state.documents["nodes/n2"].value["x"] = 3
    async with _rehearsing(line, ToyApp(), monkeypatch) as rehearsal:
        await eventually(lambda: rehearsal.report is not None, "it has rehearsed")
        assert rehearsal.report is not None
        assert (list(rehearsal.report.failed), rehearsal.report.differing) == (["n1"], ("n2",))
        assert (rehearsal.report.nodes, rehearsal.report.index) == (3, line.state.index)
        assert rehearsal.problem is not None
        assert "node n1" in rehearsal.problem
    assert same(line.state, untouched.state)


async def test_it_is_repeated_at_once_only_for_a_new_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands alone do not repeat it within a minute."""
    line = _line()
    async with _rehearsing(line, ToyApp(), monkeypatch) as rehearsal:
        await eventually(lambda: rehearsal.report is not None, "it has rehearsed")
        first = rehearsal.report
        line.one("put", "x3", 0, path="nodes/n3", document={"x": 3})
        await asyncio.sleep(0.1)
        assert rehearsal.report is first
        line.adopt(inventory("n1", "n2", "n3", "n4"))
        await eventually(lambda: rehearsal.report not in (None, first), "it has rehearsed again")
        assert rehearsal.report is not None
        assert rehearsal.report.nodes == 4


async def test_a_node_for_which_the_application_hangs_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other nodes are rehearsed, and the application is not called again for the same configuration."""
    line, application = _line(), _Blocks()
    line.state.documents["nodes/n2"].value["x"] = 3
    async with _rehearsing(line, application, monkeypatch, limit_s=0.1) as rehearsal:
        await eventually(lambda: rehearsal.report is not None, "it has rehearsed")
        why = "the application did not return from desired(node n1) within 0.1 s"
        assert rehearsal.report is not None
        assert (rehearsal.report.failed, rehearsal.report.differing) == ({"n1": why}, ("n2",))
        assert rehearsal.problem == f"its application cannot derive the spec of node n1: {why}"
        asked = application.asked
        await asyncio.sleep(0.3)
        assert application.asked == asked
    application.release.set()


async def test_a_rehearsal_ends_after_a_few_nodes_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them may leave a thread that does not end."""

    class Deaf(_Blocks):
        def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
            self.asked += 1
            self.release.wait(30)
            return None

    line, application = Line("n1", "n2", "n3", "n4", "n5"), Deaf()
    async with _rehearsing(line, application, monkeypatch, limit_s=0.05) as rehearsal:
        await eventually(lambda: rehearsal.report is not None, "it has rehearsed")
        assert rehearsal.report is not None
        assert (rehearsal.report.failed_count, application.asked) == (3, 3)
    application.release.set()


async def test_configurations_do_not_collect_threads_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each configuration is rehearsed anew, and each rehearsal may leave a thread; but not while too many hang."""
    line, application = _line(), _Blocks()
    await eventually(lambda: not worker_module.hung_nodes(), "no thread of an earlier test is left")
    monkeypatch.setattr(worker_module, "HUNG_THREADS_MAX", 2)
    async with _rehearsing(line, application, monkeypatch, limit_s=0.05) as rehearsal:
        for _ in range(2):
            await eventually(lambda: rehearsal.report is not None, "it has rehearsed")
            line.adopt(inventory("n1", "n2", "n3"))
        asked = application.asked
        await asyncio.sleep(0.2)
        assert application.asked == asked
        assert "node n1" in (rehearsal.problem or "")
        application.release.set()
        await eventually(lambda: rehearsal.report is not None, "it rehearses again once the threads have ended")
        assert rehearsal.problem is None


async def test_a_report_ends_with_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its problem counts until the new configuration has been rehearsed, and says that it is of an earlier one."""
    line, application = _line(), _Blocks()
    async with _rehearsing(line, application, monkeypatch, limit_s=0.1) as rehearsal:
        await eventually(lambda: rehearsal.report is not None, "it has rehearsed")
        application.release.set()
        line.adopt(inventory("n1", "n2"))
        assert rehearsal.report is None
        assert "(with an earlier configuration; the present one is not rehearsed yet)" in (rehearsal.problem or "")
        await eventually(lambda: rehearsal.report is not None, "it has rehearsed again")
        assert rehearsal.problem is None


async def test_a_rehearsal_that_a_term_interrupted_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nothing has changed since: what it would have found is not known."""
    line, application = _line(), _Blocks()
    async with _rehearsing(line, application, monkeypatch) as rehearsal:
        await eventually(lambda: application.asked == 1, "it rehearses")
        leadership = cast(Any, rehearsal)._leadership
        leadership.leader = cast(Any, object())
        application.release.set()
        await asyncio.sleep(0.1)
        assert rehearsal.report is None
        leadership.leader = None
        await eventually(lambda: rehearsal.report is not None, "it has rehearsed")


async def test_a_leader_does_not_rehearse(monkeypatch: pytest.MonkeyPatch) -> None:
    """It derives the specs in earnest."""
    async with _rehearsing(_line(), ToyApp(), monkeypatch, leads=True) as rehearsal:
        await asyncio.sleep(0.1)
        assert rehearsal.report is None
