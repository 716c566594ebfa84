"""How much more CPU time the same work takes now than on undisturbed cores, from a probe that runs during a trial.

Without it CPU times cannot be compared between runs: other programs on the machine make the same work take up to twice
as much CPU time.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.harness.figures import percentile
from nodectl.dev import launch
from nodestore.errors import NodectlError
from nodestore.processes import child_processes
from nodestore.support.tasks import background_task

PROGRAM = "bench.harness.speed_probe"
_UNDISTURBED = 0.05
"""The part of the probes that nothing disturbs, on a machine that is not overloaded all the time."""
_NEAR_S = 1.0
_WARM_UP_S = 1.0


class CoreSpeed:
    """The probes of a run. Only durations relative to the fastest ones mean something."""

    def __init__(self) -> None:
        self._probes: list[tuple[float, float]] = []

    def add(self, at: float, took_ms: float) -> None:
        """Add a probe that ended at `at`, on the monotonic clock."""
        self._probes.append((at, took_ms))

    def slowdown(self, begun: float, ended: float) -> float:
        """Return the mean CPU time of the probes between two times, divided by that of an undisturbed one.

        Raises NodectlError if no probe ran within a second of that time.
        """
        inside = [took_ms for at, took_ms in self._probes if begun <= at <= ended]
        inside = inside or [took_ms for at, took_ms in self._probes if begun - _NEAR_S <= at <= ended + _NEAR_S]
        if not inside:
            raise NodectlError(f"{PROGRAM} did not run during a trial: the machine is overloaded, or it has ended")
        return statistics.fmean(inside) / percentile(sorted(took_ms for _, took_ms in self._probes), _UNDISTURBED)


@asynccontextmanager
async def watch_core_speed() -> AsyncIterator[CoreSpeed]:
    """Run the probe until the block ends."""
    speed = CoreSpeed()
    child = await child_processes.spawn(
        [sys.executable, "-m", PROGRAM], env=launch.inherited_environment(), stdout=child_processes.PIPE,
        die_with_parent=True,
    )  # fmt: skip
    reader = background_task(_read(child, speed), name="probes of the cores' speed", eternal=True)
    try:
        await asyncio.sleep(_WARM_UP_S)
        yield speed
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await child.stop(0.0)


async def _read(child: child_processes.Child, speed: CoreSpeed) -> None:
    assert child.stdout is not None
    while line := await child.stdout.readline():
        at, took_ms = line.split()
        speed.add(float(at), float(took_ms))
