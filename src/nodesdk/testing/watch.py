"""Records calls that an application must not make: clocks, random numbers, files, network, waiting."""

from __future__ import annotations

import datetime
import gc
import io
import os
import random
import sys
import time
from types import FrameType
from typing import Any

WAITING = "waiting or I/O"
IMPURE = "a clock or random numbers"

_KINDS: dict[Any, str] = {
    **dict.fromkeys((time.sleep, io.open, os.system, os.open), WAITING),
    **dict.fromkeys(
        (
            time.time, time.time_ns, time.monotonic, time.monotonic_ns, time.perf_counter, time.perf_counter_ns,
            time.localtime, time.gmtime, os.urandom,
        ),
        IMPURE,
    ),
}  # fmt: skip
_NOW = frozenset({"now", "today", "utcnow"})
_IO_MODULES = frozenset({"_socket", "_posixsubprocess", "_winapi"})


class CallWatch:
    """A context manager that records the forbidden calls of this thread; `found` holds the names of their functions."""

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds
        self.found: set[str] = set()

    def __enter__(self) -> CallWatch:
        self._before, self._collects = sys.getprofile(), gc.isenabled()
        gc.disable()  # callbacks of a collection, and finalizers of other objects, would run in this thread too
        sys.setprofile(self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)
        if self._collects:
            gc.enable()

    def _notice(self, _: FrameType, event: str, call: Any) -> None:
        if event == "c_call" and kind_of(call) in self._kinds:
            self.found.add(getattr(call, "__qualname__", repr(call)))


def kind_of(call: Any) -> str:
    """WAITING, IMPURE or "" for a function or method that is implemented in C."""
    owner = getattr(call, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, datetime.date) and call.__name__ in _NOW:
        return IMPURE
    if isinstance(owner, random.Random):
        return IMPURE
    if getattr(call, "__module__", None) in _IO_MODULES or type(owner).__module__ == "socket":
        return WAITING
    return _KINDS.get(call, "") if getattr(call, "__hash__", None) else ""
