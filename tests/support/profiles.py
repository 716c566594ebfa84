"""How long property tests search: the same short while at every run, or, to look for more, for long.

`NODECTL_PROPERTIES=long` tries twenty times as many cases, other ones at each run; a failure prints how to repeat it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_LONG = os.environ.get("NODECTL_PROPERTIES") == "long"
_FACTOR = 20


def cases(few: int, *, steps: int = 50) -> settings:
    """Settings for a test that tries `few` cases in a run of all tests; `steps`: of a state machine's case, at most."""
    return settings(
        max_examples=few * (_FACTOR if _LONG else 1), stateful_step_count=steps, derandomize=not _LONG, database=None,
        deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip
