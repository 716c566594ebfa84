"""Times as people write them: 90s, 10m, 8h."""

from __future__ import annotations

import re

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def seconds(text: str) -> float:
    """ValueError, in one line, when it is no such time."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise ValueError(f"{text!r} is not a time such as 90s, 10m or 8h")
    return float(found[1]) * _UNITS_S[found[2]]
