"""The client's back-off: jittered, so that many clients do not retry at the same moment."""

from __future__ import annotations

import random

from nodestore.errors import Unavailable
from nodestore.support.backoff import Backoff

_FIRST_S = 0.04
_JITTER = (0.5, 1.0)
_SPREAD = (1.0, 1.5)


def backoff(most_s: float = 1.0, *, first_s: float = _FIRST_S, dice: random.Random | None = None) -> Backoff:
    """Return an exponential back-off from `first_s` up to `most_s` seconds.

    `dice`, the source of randomness, shortens each pause by up to half.
    """
    uniform = random.uniform if dice is None else dice.uniform
    return Backoff(first_s, most_s, jitter=lambda: uniform(*_JITTER))


def requested_pause_s(error: Exception | None, *, dice: random.Random | None = None) -> float:
    """Return how long the master that sent `error` asks to wait; 0 if it does not.

    Up to half of it is added, so that clients that were refused at the same moment retry at different moments.
    """
    wait_s = error.retry_after_s if isinstance(error, Unavailable) else None
    return (wait_s or 0.0) * (random.uniform if dice is None else dice.uniform)(*_SPREAD)
