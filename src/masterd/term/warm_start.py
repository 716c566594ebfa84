"""What the nodes must be, derived by a candidate while its takeover is on its way to etcd and back.

It would be the first thing that a new leader does, and it needs nothing that only a leader knows: the state that is
followed, and the application. What comes of it counts only if that state is still the one that the term begins with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from masterd.application.contract import Application
from masterd.application.worker import HungError, JobProgress, Worker
from masterd.replication.replica import Replica
from masterd.state_machine.batch import Batch
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State


@dataclass(frozen=True, slots=True)
class PreparedSpecs:
    """Of the state at its index then. `matches_recorded`: these are the specs that the state has recorded."""

    state: State
    index: int
    spec_deriver: SpecDeriver
    quick_commands: frozenset[str]
    matches_recorded: bool

    def is_current_for(self, state: State) -> bool:
        """Whether it is of this state, as it is now."""
        return self.state is state and self.index == state.index


def derive_all(batch: Batch, application: Application) -> tuple[frozenset[str], bool]:
    """Derive all specs; the commands that promise to end at once, and whether the specs are the recorded ones."""
    batch.rebuild_specs()
    quick = frozenset(name for name, offered in application.commands().items() if offered.quick)
    return quick, not batch.differing_nodes()


def _consume_error(done: asyncio.Task[PreparedSpecs | None]) -> None:
    """Where the takeover is lost nobody asks what came of it, and the loop would complain of an error."""
    if not done.cancelled():
        done.exception()


class WarmStart:
    """Of one masterd; the newest one counts."""

    def __init__(
        self, replica: Replica, application: Application, limit_s: float, wall_clock: Callable[[], float]
    ) -> None:
        self._replica, self._application = replica, application
        self._limit_s, self._wall_clock = limit_s, wall_clock
        self._task: asyncio.Task[PreparedSpecs | None] | None = None
        self._started_for: tuple[State, int] | None = None
        """The state that the newest one derives from, and its index then."""

    def start(self) -> None:
        """Unless one is under way that is of the state as it is now."""
        if self._task is None or self._task.done() or not self._is_started_for(self._replica.state):
            self.cancel()
            self._started_for = self._replica.state, self._replica.index
            self._task = asyncio.create_task(self._derive(), name="derive what the nodes must be")
            self._task.add_done_callback(_consume_error)

    def cancel(self) -> None:
        """What comes of it is of no interest."""
        running, self._task = self._task, None
        if running is not None:
            running.cancel()

    def _is_started_for(self, state: State) -> bool:
        return self._started_for is not None and self._started_for[0] is state and self._started_for[1] == state.index

    async def take(self, state: State) -> PreparedSpecs | None:
        """What came of it, for this state; None when there is nothing that could be used. Each is used once: whoever
        leads by it changes it. HungError when the application does not say what the nodes must be."""
        if self._task is None or not self._is_started_for(state):
            self.cancel()  # not waited for: it can only come to nothing
            return None
        running, self._task = self._task, None
        found = await running
        return found if found is not None and found.is_current_for(state) else None

    async def _derive(self) -> PreparedSpecs | None:
        state, application = self._replica.state, self._application
        index, derivation, worker = state.index, SpecDeriver(application), Worker()
        batch = Batch(state, application, derivation, self._wall_clock())

        def work(_: JobProgress) -> tuple[frozenset[str], bool]:
            return derive_all(batch, application)

        try:
            quick, agrees = await worker.run(work, self._limit_s)
        except (HungError, asyncio.CancelledError):
            raise
        except BaseException:  # noqa: BLE001 - the state grew meanwhile, or it comes again where it is told
            return None
        finally:
            worker.close()
        found = PreparedSpecs(state, index, derivation, quick, agrees)
        return found if found.is_current_for(self._replica.state) else None
