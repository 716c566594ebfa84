"""The lock of a cluster's directory: only its holder starts and stops the cluster's processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from nodestore.errors import Unavailable
from nodestore.support.files.file_lock import lock_now

_PAUSE_S = 0.05


@contextlib.contextmanager
def locked(directory: Path, wait_s: float = 10.0) -> Iterator[None]:
    """Hold the directory's lock; the system releases it if this process dies.

    Blocks while another process holds it, and raises Unavailable after `wait_s` seconds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with open(directory / ".lock", "ab") as file:
        while not _try(file.fileno()):
            if time.monotonic() > deadline:
                raise Unavailable(f"another nodectl is at work in {directory}: wait until it has finished")
            time.sleep(_PAUSE_S)
        yield


def _try(descriptor: int) -> bool:
    try:
        lock_now(descriptor)
    except OSError:
        return False
    return True
