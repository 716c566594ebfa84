"""Derives all specs while the takeover transaction is in flight, to shorten the time until the new leader serves.

Deriving the specs is the first thing a new leader does, and it needs only what a standby has: the replicated state and
the application. The result is used only if that state is still the one with which the term begins.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from masterd.application.contract import Application
from masterd.application.worker import Worker
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch
from masterd.state_machine.state import State
from masterd.term.derivation.all_specs import DerivationLimits, DerivedSpecs, derive_all
from nodestore.support.tasks import owned_task


@dataclass(frozen=True, slots=True)
class PreparedSpecs:
    """All specs derived from `state` at `index`."""

    state: State
    index: int
    specs: DerivedSpecs

    def is_current_for(self, state: State) -> bool:
        """Whether these specs were derived from this very state at its present index."""
        return self.state is state and self.index == state.index


def _consume_error(done: asyncio.Task[PreparedSpecs | None]) -> None:
    """Mark the error as retrieved. After a lost takeover nothing awaits the task, and asyncio would log the error."""
    if not done.cancelled():
        done.exception()


class WarmStart:
    """Derives all specs ahead of a term, in a task. Starting it again replaces an outdated task."""

    def __init__(self, replica: Replica, application: Application, limits: DerivationLimits) -> None:
        self._replica, self._application, self._limits = replica, application, limits
        self._task: asyncio.Task[PreparedSpecs | None] | None = None
        self._started_for: tuple[State, int] | None = None
        """The state from which the task derives, and its index at that time."""

    def start(self) -> None:
        """Start deriving, unless a running task already derives from the present state."""
        if self._task is None or self._task.done() or not self._is_started_for(self._replica.state):
            self.cancel()
            self._started_for = self._replica.state, self._replica.index
            self._task = owned_task(self._derive(), name="derive all specs ahead of the term")
            self._task.add_done_callback(_consume_error)

    def cancel(self) -> None:
        """Cancel the task, if there is one."""
        running, self._task = self._task, None
        if running is not None:
            running.cancel()

    def _is_started_for(self, state: State) -> bool:
        return self._started_for is not None and self._started_for[0] is state and self._started_for[1] == state.index

    async def take(self, state: State) -> PreparedSpecs | None:
        """Wait for the specs and hand them over; None if there are none for this very state.

        Each result is handed over once, because the leader changes it.
        """
        if self._task is None or not self._is_started_for(state):
            self.cancel()  # its result could not be used
            return None
        running, self._task = self._task, None
        prepared = await running
        return prepared if prepared is not None and prepared.is_current_for(state) else None

    async def _derive(self) -> PreparedSpecs | None:
        state, application = self._replica.state, self._application
        index, worker = state.index, Worker()
        try:
            specs = await derive_all(
                lambda deriver: Batch(state, application, deriver, state.time), application, worker, self._limits, {}
            )
        except asyncio.CancelledError:
            raise
        except BaseException:  # noqa: BLE001 - the state changed meanwhile, or the leader derives again and reports the error
            return None
        finally:
            worker.close()
        prepared = PreparedSpecs(state, index, specs)
        return prepared if prepared.is_current_for(self._replica.state) else None
