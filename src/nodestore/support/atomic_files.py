"""Atomic writes and bounded reads of small files."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from pathlib import Path

import psutil

from nodestore.support.files.owner_only import restrict_new

FILE_BYTES_MAX = 8 << 20
_REPLACE_TIMEOUT_S = 3.0
_IN_USE = (5, 32)
"""ERROR_ACCESS_DENIED and ERROR_SHARING_VIOLATION of Windows, while a virus scanner or a reader has the file open."""


def replace_file(source: Path, target: Path) -> None:
    """Replace `target` by `source` atomically. On Windows it retries for 3 s while the file is in use.

    OSError if that fails. The new content is durable only if the caller synced `source`.
    """
    deadline = time.monotonic() + _REPLACE_TIMEOUT_S
    while True:
        try:
            return os.replace(source, target)
        except OSError as error:
            if getattr(error, "winerror", None) not in _IN_USE or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def write_atomic(path: Path, content: bytes, mode: int | None = None, *, owner: tuple[int, int] | None = None) -> None:
    """Write a file atomically and durably: after a power cut too, it holds the old content or the new one.

    mode: the permissions of the new file; None: those of the umask. On Windows, a mode without rights for others keeps
    it from other users by its access list. owner: its user and group id, POSIX only; -1 for
    that of this process. OSError if it fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with draft.open("xb") as file:  # "x" does not follow a link that another user created under that name
            if owner is not None and sys.platform != "win32":
                os.chown(draft, *owner)  # first, because it clears the bits for setuid and setgid
            if mode is not None:
                restrict_new(draft, mode)  # before the content is written
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace_file(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _sweep(path: Path) -> None:
    """Remove the drafts of killed processes, and any file that has the name of this process's draft."""
    prefix = f".{path.name}."
    for name in os.listdir(path.parent):  # pathlib's glob takes ten times as long
        if not (name.startswith(prefix) and name.endswith(".new")):
            continue
        owner = name.removeprefix(prefix).removesuffix(".new")
        if owner.isascii() and owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            with contextlib.suppress(OSError):
                path.with_name(name).unlink()


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a plain open of a named pipe blocks until it has a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bounded(path: Path) -> bytes | None:
    """The file's content. None if it is absent, unreadable, no regular file, or larger than FILE_BYTES_MAX."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError:
        return None
    return content if len(content) <= FILE_BYTES_MAX else None
