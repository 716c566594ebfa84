"""masterd that keeps little, so that minutes show what otherwise takes hours: `-m tests.faults.brief_masterd ARG...`.

Its journal is cut after some seconds of it and ids are known for half a minute: who was away for longer than that
finds the journal cut (410, a replica that must load a snapshot), and repeats of old commands are too old to know. All
masters of a cluster must be such. A program of the tests alone.
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
"""Longer than clients repeat a command by themselves, so that only a wrong clock makes those too old."""


def keep_little() -> None:
    vars(settings)["RetentionSettings"] = functools.partial(RetentionSettings, journal_bytes_max=_JOURNAL_BYTES)
    state.IDS_MIN, state.IDS_WINDOW_S = _IDS, _IDS_S


if __name__ == "__main__":
    keep_little()
    sys.exit(__main__.main())
