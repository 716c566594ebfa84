"""How long to wait before trying again: doubling, bounded, jittered so that many clients do not arrive together."""

from __future__ import annotations

import random

_FIRST_S = 0.02


def pause_s(failures: int, *, most_s: float = 1.0) -> float:
    """Seconds before the next try after this many failures in a row; 0 before the first one. At most `most_s`."""
    if failures <= 0:
        return 0.0
    ceiling: float = min(most_s, _FIRST_S * 2 ** min(failures, 16))
    return ceiling * random.uniform(0.5, 1.0)
