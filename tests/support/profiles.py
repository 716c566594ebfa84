"""Sets how many cases property tests try: by default few, the same in each run.

`NODECTL_PROPERTIES=long` tries twenty times as many cases, different ones in each run. A failure prints how to repeat
it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_LONG = os.environ.get("NODECTL_PROPERTIES") == "long"
_FACTOR = 20


def cases(few: int, *, steps: int = 50) -> settings:
    """Return settings with `few` cases by default. steps: maximum number of steps in a case of a state machine."""
    return settings(
        max_examples=few * (_FACTOR if _LONG else 1), stateful_step_count=steps, derandomize=not _LONG, database=None,
        deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip
