"""Which calls of an application are noticed."""

from __future__ import annotations

import gc
import time
from typing import Any

from nodesdk.testing.watch import IMPURE, CallWatch


def test_a_clock_is_noticed() -> None:
    with CallWatch(IMPURE) as watch:
        time.monotonic()
    assert watch.found == {"monotonic"}
    assert gc.isenabled()


def test_what_a_collection_of_garbage_calls_is_not_the_applications() -> None:
    """Other programs in the process register callbacks that read a clock, and any object may have a finalizer."""

    def note(_: str, __: dict[str, Any]) -> None:
        time.perf_counter()

    gc.callbacks.append(note)
    try:
        with CallWatch(IMPURE) as watch:
            kept = [[number] for number in range(100_000)]  # makes Python collect, several times
    finally:
        gc.callbacks.remove(note)
    assert len(kept) == 100_000
    assert watch.found == set()
