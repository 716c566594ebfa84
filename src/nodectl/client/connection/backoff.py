"""How long the client pauses before it tries again: jittered, so that many clients do not arrive together."""

from __future__ import annotations

import random

from nodestore.support.backoff import Backoff

_FIRST_S = 0.04
_JITTER = (0.5, 1.0)


def backoff(most_s: float = 1.0, *, first_s: float = _FIRST_S, dice: random.Random | None = None) -> Backoff:
    """The pauses after failures in a row: each between half of its full length and all of it, at most `most_s`."""
    uniform = random.uniform if dice is None else dice.uniform
    return Backoff(first_s, most_s, jitter=lambda: uniform(*_JITTER))
