"""The leader's time: the time of commands, of the deadlines of actions, and of the age of command ids. Pure.

It goes on from the last committed time by the leader's monotonic clock, and is pulled towards the target, which is the
median of the clocks of the PCs: at most 10 % faster or slower than the monotonic clock. So it neither stands still nor
jumps, whatever a single wall clock does: one that is wrong, is stepped, or belongs to the leader itself.

Only `time.reset` sets it. It must not jump to the target by itself: after a power cut, most PCs may have clocks with
empty batteries, which agree on 1970. Nothing that must be safe depends on this time.
"""

from __future__ import annotations

from collections.abc import Callable

PULL_MAX = 0.1
"""Largest share of the elapsed time by which the leader's time is corrected."""
DEVIATION_MAX_S = 5.0
"""A larger difference from the clocks of the PCs is reported."""


class LeaderClock:
    """The leader's time in one term, in seconds since the Unix epoch.

    committed: the last committed time. known: that time plus what has elapsed since its commit, by the monotonic clock
    of this masterd; None if this masterd has read the commit later and so does not know when it was made. Then the term
    begins at the target, if that is after `committed`: all masterds may have been off for a night.
    target: returns the time by the clocks of the PCs.
    """

    def __init__(
        self, committed: float, known: float | None, monotonic: Callable[[], float], target: Callable[[], float]
    ) -> None:
        self._monotonic, self._target = monotonic, target
        self._time = max(committed, target() if known is None else known)
        self._read_at = monotonic()

    def now(self) -> float:
        """The leader's time. Never earlier than an earlier call of this method returned, except after `set`."""
        at = self._monotonic()
        elapsed, self._read_at = max(0.0, at - self._read_at), at
        self._time += elapsed
        pull_max = PULL_MAX * elapsed
        self._time += min(max(self._target() - self._time, -pull_max), pull_max)
        return self._time

    def set(self, time: float) -> None:
        """Set the time, after `time.reset` was committed."""
        self._time, self._read_at = time, self._monotonic()

    @property
    def target_time(self) -> float:
        """The time by the clocks of the PCs."""
        return self._target()

    @property
    def ahead_s(self) -> float:
        """Seconds by which the leader's time is ahead of the target; negative if it is behind."""
        return self.now() - self._target()

    @property
    def problem(self) -> str | None:
        """Why an operator should set the time; None if it is right."""
        ahead_s = self.ahead_s
        if abs(ahead_s) <= DEVIATION_MAX_S:
            return None
        where = "ahead of" if ahead_s > 0 else "behind"
        return (
            f"the cluster's time is {abs(ahead_s):.0f} s {where} the clocks of its PCs, so actions expire at a wrong "
            "time; correct the clocks if they are wrong, then run `nodectl time reset`"
        )
