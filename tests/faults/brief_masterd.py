"""masterd with a short retention, so that tests of minutes cover truncation: `-m tests.faults.brief_masterd ARG...`.

It truncates its journal after some seconds and remembers ids for half a minute. A reader or replica that was away for
longer finds the journal truncated (410, or a snapshot to load), and repeats of old commands are refused (TooOld). All
masters of a cluster must run this program. For tests only.
"""

from __future__ import annotations

import functools
import sys

from masterd import __main__, settings
from masterd.state_machine import state
from masterd.term.retention import RetentionSettings

_JOURNAL_BYTES = 128 << 10
_IDS = 500
_IDS_S = 30.0
"""Longer than clients retry a command by themselves, so that only a wrong clock makes retries too old."""


def keep_little() -> None:
    vars(settings)["RetentionSettings"] = functools.partial(RetentionSettings, journal_bytes_max=_JOURNAL_BYTES)
    state.IDS_MIN, state.IDS_WINDOW_S = _IDS, _IDS_S


if __name__ == "__main__":
    keep_little()
    sys.exit(__main__.main())
