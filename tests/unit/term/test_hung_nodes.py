"""The application is asked again for the nodes for which it hung, aside from the commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from masterd.replication.replica import Replica
from masterd.term.derivation import hung_nodes as hung_nodes_module
from masterd.term.derivation.hung_nodes import HungNodes
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, Spec
from tests.support.toy_app import Line, ToyApp, inventory
from tests.support.waiting import eventually


class _Blocks(ToyApp):
    """Does not return for n1 before it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.asked: list[str] = []

    def desired(self, config: Inventory, view: Any, node: str) -> Spec | None:
        self.asked.append(node)
        if node == "n1":
            self.release.wait(30)
        return super().desired(config, view, node)


class _Leader:
    """Leaves these nodes out."""

    def __init__(self, *nodes: str) -> None:
        self.hung_nodes: tuple[str, ...] = nodes
        self.wakes = 0

    def ask_again(self, node: str) -> None:
        self.hung_nodes = tuple(name for name in self.hung_nodes if name != node)

    def wake(self) -> None:
        self.wakes += 1


@asynccontextmanager
async def _asking(
    application: _Blocks, leader: _Leader, monkeypatch: pytest.MonkeyPatch, pause_s: float = 0.0
) -> AsyncIterator[tuple[HungNodes, Line]]:
    monkeypatch.setattr(hung_nodes_module, "_CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(hung_nodes_module, "_FIRST_PAUSE_S", pause_s)
    line = Line("n1", "n2", "n3")
    replica = Replica(cast(Any, None), Keys("test"))
    replica.state = line.state
    hung_nodes = HungNodes(replica, application, leader, 0.05, leader.wake)
    running = asyncio.create_task(hung_nodes.run())
    yield hung_nodes, line
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    application.release.set()


async def test_a_node_that_returns_is_given_back_to_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although another one hangs before it. The leader is woken to record the specs."""
    leader, application = _Leader("n1", "n2", "n3"), _Blocks()
    async with _asking(application, leader, monkeypatch) as (hung_nodes, _):
        await eventually(lambda: leader.hung_nodes == ("n1",), "n2 and n3 are derived again")
        assert hung_nodes.respec_due
        assert leader.wakes == 2
        application.release.set()
        await eventually(lambda: not leader.hung_nodes, "n1 is derived again")


async def test_it_is_not_asked_while_too_many_threads_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocking call cannot be ended, so the number of threads is bounded."""
    leader, application = _Leader("n1"), _Blocks()
    async with _asking(application, leader, monkeypatch):
        await eventually(lambda: len(application.asked) == 4, "it was asked four times")
        await asyncio.sleep(0.2)
        assert len(application.asked) == 4


async def test_a_new_configuration_is_a_reason_to_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may mend the node."""
    leader, application = _Leader("n1"), _Blocks()
    application.release.set()
    async with _asking(application, leader, monkeypatch, pause_s=60.0) as (_, line):
        await asyncio.sleep(0.1)
        assert leader.hung_nodes == ("n1",)
        line.adopt(inventory("n1", "n2"))
        await eventually(lambda: not leader.hung_nodes, "n1 is derived again")
