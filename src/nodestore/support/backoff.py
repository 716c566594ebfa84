"""Computes the pauses between attempts. Pure: the caller sleeps, and provides the random source."""

from __future__ import annotations

from collections.abc import Callable

_EXPONENT_MAX = 64
"""Limit of the exponent, so that the power does not overflow a float. Pauses reach their maximum long before."""


def grown_s(first_s: float, most_s: float, times: int, *, factor: float = 2.0) -> float:
    """The pause `first_s` * `factor` ** `times`, at most `most_s`, in seconds."""
    return float(min(first_s * factor ** min(times, _EXPONENT_MAX), most_s))


class Backoff:
    """Exponential back-off: the first pause is `first_s` seconds, each next one `factor` times as long, up to `most_s`.

    jitter: returns a factor for each pause. With random factors, processes that failed together do not retry together.
    For a pause that an event can end, wait with `waiting.set_within`.
    """

    def __init__(
        self, first_s: float, most_s: float, *, factor: float = 2.0, jitter: Callable[[], float] | None = None
    ) -> None:
        self._first_s, self._most_s, self._factor, self._jitter = first_s, most_s, factor, jitter
        self.failures = 0
        """The number of failures since the last reset."""

    def next_s(self) -> float:
        """Count a failure; return the pause before the next attempt, in seconds."""
        pause_s = grown_s(self._first_s, self._most_s, self.failures, factor=self._factor)
        self.failures += 1
        return pause_s if self._jitter is None else pause_s * self._jitter()

    def reset(self) -> None:
        """Note a success: the next pause is `first_s` again."""
        self.failures = 0
