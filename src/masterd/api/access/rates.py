"""Limits how many requests each principal may send in a second. Pure: callers pass in the time.

One program that repeats its requests without a pause then delays the others less. The limit is far above what a client
needs, because commands of the same moment share a request. What all of them together may do is `admission`'s matter.
"""

from __future__ import annotations

REQUESTS_A_SECOND = 1_000.0
BURST = 2_000.0
_KNOWN_MAX = 1_024


class Rates:
    """A token bucket for each principal. Monotonic time."""

    def __init__(self, a_second: float = REQUESTS_A_SECOND, burst: float = BURST) -> None:
        self._a_second, self._burst = a_second, burst
        self._buckets: dict[str, tuple[float, float]] = {}
        """By principal: how many requests it had left, and when that was."""

    def __len__(self) -> int:
        """How many principals are remembered."""
        return len(self._buckets)

    def wait_s(self, principal: str, now: float) -> float:
        """Count a request. 0 if it may be served, else after how many seconds the next one may; it is not counted
        then."""
        left, since = self._buckets.get(principal, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._a_second)
        if left < 1.0:
            return (1.0 - left) / self._a_second
        if len(self._buckets) >= _KNOWN_MAX and principal not in self._buckets:
            self._forget_rested(now)
        self._buckets[principal] = (left - 1.0, now)
        return 0.0

    def _forget_rested(self, now: float) -> None:
        """Forget the principals whose bucket is full again, or all if none is."""
        full_after_s = self._burst / self._a_second
        self._buckets = {name: item for name, item in self._buckets.items() if now - item[1] < full_after_s}
        if len(self._buckets) >= _KNOWN_MAX:
            self._buckets.clear()
