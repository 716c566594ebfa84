"""How long to pause before another attempt. Pure: the caller sleeps, and provides the random source."""

from __future__ import annotations

from collections.abc import Callable

_EXPONENT_MAX = 64
"""Beyond any pause in use; a larger exponent could overflow a float."""


def grown_s(first_s: float, most_s: float, times: int, *, factor: float = 2.0) -> float:
    """`first_s` seconds multiplied by `factor` `times` times, at most `most_s`."""
    return float(min(first_s * factor ** min(times, _EXPONENT_MAX), most_s))


class Backoff:
    """Pauses between attempts that fail in a row: `first_s` seconds, then each `factor` times as long, up to `most_s`.

    jitter: called for each pause, which is multiplied by its result: with random factors, many processes that failed
    together do not try again together. To be woken during a pause, wait with `waiting.set_within`.
    """

    def __init__(
        self, first_s: float, most_s: float, *, factor: float = 2.0, jitter: Callable[[], float] | None = None
    ) -> None:
        self._first_s, self._most_s, self._factor, self._jitter = first_s, most_s, factor, jitter
        self.failures = 0
        """How many pauses have been given out since the last reset."""

    def next_s(self) -> float:
        """Count a failure; how many seconds to pause before the next attempt."""
        pause_s = grown_s(self._first_s, self._most_s, self.failures, factor=self._factor)
        self.failures += 1
        return pause_s if self._jitter is None else pause_s * self._jitter()

    def reset(self) -> None:
        """An attempt has succeeded: the next pause is the first one again."""
        self.failures = 0
