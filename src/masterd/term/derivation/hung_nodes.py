"""Asks the application again for the nodes for which it hung, so that they do not keep their last order for ever.

It asks in a thread of its own, for a copy of the state, so no command waits for it. A node for which the application
returns is derived by the leader from then on, and the leader records its spec. If the application hangs again, its
thread is abandoned; the pause grows, and while too many such threads have not ended, it is not asked at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from masterd.application.contract import Application
from masterd.application.worker import HungError, Worker, too_many_hang
from masterd.replication.replica import Replica
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from nodestore.support.backoff import grown_s

_CHECK_EVERY_S = 1.0
_FIRST_PAUSE_S, _PAUSE_MAX_S = 20.0, 600.0
_HUNG_THREADS_MAX = 4


class DerivesSpecs(Protocol):
    """What derives specs for the leader, and leaves out nodes for which the application hung."""

    @property
    def hung_nodes(self) -> tuple[str, ...]:
        """The nodes that are left out."""

    def ask_again(self, node: str) -> None:
        """Leave out `node` no longer."""


class HungNodes:
    """Asks again for one term. limit_s: limit for one node. wake: wakes the task that commits."""

    def __init__(
        self,
        replica: Replica,
        application: Application,
        committer: DerivesSpecs,
        limit_s: float,
        wake: Callable[[], None],
    ) -> None:
        self._replica, self._application, self._committer = replica, application, committer
        self._limit_s, self._wake = limit_s, wake
        self._worker = Worker()
        self._failures = 0
        self._hung_again: dict[str, int] = {}
        """By node: the number of the failure at which the application last hung for it again."""
        self._tried_index = 0
        self._not_before = 0.0
        self.respec_due = False
        """Whether nodes can be derived again, so that the leader must record the specs that differ."""

    async def run(self) -> NoReturn:
        """Ask again whenever it is due, until cancelled."""
        self._schedule()
        try:
            while True:
                await asyncio.sleep(_CHECK_EVERY_S)
                if self._is_due:
                    await self._ask()
        finally:
            self._worker.close()

    @property
    def _is_due(self) -> bool:
        if not self._committer.hung_nodes or self._worker.hung_count >= _HUNG_THREADS_MAX or too_many_hang():
            return False
        return time.monotonic() >= self._not_before or self._tried_index != self._adopted_index

    @property
    def _adopted_index(self) -> int:
        adopted = self._replica.state.adopted
        return 0 if adopted is None else adopted.index

    def _schedule(self) -> None:
        self._tried_index = self._adopted_index
        self._not_before = time.monotonic() + grown_s(_FIRST_PAUSE_S, _PAUSE_MAX_S, self._failures)

    async def _ask(self) -> None:
        """Ask for each of the nodes, until the application hangs. The next time, that node is the last one."""
        state = self._replica.state.for_derivation()
        for node in sorted(self._committer.hung_nodes, key=lambda node: self._hung_again.get(node, 0)):
            if not await self._returns(state, node):
                self._failures += 1
                self._hung_again[node] = self._failures
                break
            self._committer.ask_again(node)
            self.respec_due = True
            self._wake()
        self._schedule()

    async def _returns(self, state: State, node: str) -> bool:
        """Whether the application now returns from deriving the spec of `node`."""
        try:
            await self._worker.run(lambda _: _derive(self._application, state, node), self._limit_s, lambda: node)
        except HungError:
            return False
        return True


def _derive(application: Application, state: State, node: str) -> None:
    """Derive the spec of one node. An exception of the application is no reason not to ask it again."""
    view = Overlay(state, state.inventory, state.time)
    SpecDeriver(application).update(state.inventory, view, [node], tolerant=True)
