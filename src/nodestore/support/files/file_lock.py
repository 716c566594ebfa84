"""Locks an open file without waiting. The system releases the lock when the file is closed, or its process ends."""

from __future__ import annotations

import os
import sys


def lock_now(descriptor: int) -> None:
    """Lock the open file for this process alone.

    Raises OSError if another process holds the lock, or if the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)  # a lock begins at the present position
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
