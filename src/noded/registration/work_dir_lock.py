"""Locks the work directory, so that only one noded uses it at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nodestore.errors import Conflict, NodectlError
from nodestore.pki.private_files import make_owner_only
from nodestore.support.files.file_lock import lock_now
from nodestore.support.files.owner_only import restrict

log = logging.getLogger(__name__)

_WAIT_S = 5.0
"""How long to wait for the lock: a noded that was killed may not have ended completely."""
_POLL_S = 0.1
_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


@asynccontextmanager
async def locked(work_dir: Path) -> AsyncIterator[None]:
    """Create the directory if necessary, for this user alone, and hold its lock. The system releases the lock when this
    process ends in any way.

    Raises Conflict if another process holds the lock. If the file system knows no locks, this only logs a warning.
    """
    descriptor = _open(work_dir)
    try:
        if descriptor is not None:
            await _acquire(descriptor, work_dir)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(work_dir: Path) -> int | None:
    """Open what is locked: on POSIX the directory itself, because its content may be deleted at any time."""
    try:
        make_owner_only(work_dir)
        own = work_dir / ".noded"
        with contextlib.suppress(OSError):  # on a read-only disk noded works without it
            make_owner_only(own)
            restrict(own)  # an earlier release made it for everybody
        if sys.platform != "win32":
            return os.open(work_dir, os.O_RDONLY | os.O_DIRECTORY)
        own.mkdir(exist_ok=True)  # Windows cannot open a directory, and deletes no file that is open
        return os.open(own / "lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.ENOSPC):
            log.warning("cannot lock the work directory %s: %s", work_dir, error.strerror)
            return None
        raise NodectlError(f"cannot use the work directory {work_dir}: {error.strerror or error}") from None


async def _acquire(descriptor: int, work_dir: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return lock_now(descriptor)
        except OSError as error:
            if error.errno not in _HELD:
                log.warning("cannot lock the work directory %s: %s", work_dir, error.strerror)
                return None
        if time.monotonic() >= deadline:
            raise Conflict(
                f"another noded uses the work directory {work_dir}: stop it, or give this one another --work-dir"
            )
        await asyncio.sleep(_POLL_S)
