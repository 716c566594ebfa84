"""The client's back-off: jittered, so that many clients do not retry at the same moment."""

from __future__ import annotations

import random

from nodestore.support.backoff import Backoff

_FIRST_S = 0.04
_JITTER = (0.5, 1.0)


def backoff(most_s: float = 1.0, *, first_s: float = _FIRST_S, dice: random.Random | None = None) -> Backoff:
    """Return an exponential back-off from `first_s` up to `most_s` seconds.

    `dice`, the source of randomness, shortens each pause by up to half.
    """
    uniform = random.uniform if dice is None else dice.uniform
    return Backoff(first_s, most_s, jitter=lambda: uniform(*_JITTER))
