"""Atomic writes and bounded reads of small files."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from pathlib import Path

import psutil

FILE_BYTES_MAX = 8 << 20
_REPLACE_TIMEOUT_S = 3.0
_IN_USE = (5, 32)
"""Windows: ERROR_ACCESS_DENIED and ERROR_SHARING_VIOLATION, while a virus scanner or a reader holds the file open."""


def replace_file(source: Path, target: Path) -> None:
    """os.replace: afterwards `target` is the new file, whole. On Windows it retries for 3 s while the file is in use.

    OSError if it stays impossible. Durable only if the caller synced `source`.
    """
    deadline = time.monotonic() + _REPLACE_TIMEOUT_S
    while True:
        try:
            return os.replace(source, target)
        except OSError as error:
            if getattr(error, "winerror", None) not in _IN_USE or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def write_atomic(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write `content` so that a reader, or a power cut, sees the old file or the new one. OSError when it fails.

    mode: the new file's; None: as the umask has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with draft.open("xb") as file:  # x: in a directory that others may write to, it follows no link of theirs
            if mode is not None:
                draft.chmod(mode)  # before there is anything in it to read
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace_file(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _sweep(path: Path) -> None:
    """Remove the drafts of processes that were killed while they wrote, and what has our draft's name."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        owner = draft.name.removeprefix(f".{path.name}.").removesuffix(".new")
        if owner.isascii() and owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            with contextlib.suppress(OSError):
                draft.unlink()


def read_bounded(path: Path) -> bytes | None:
    """The file's content; None when it is absent, unreadable or larger than FILE_BYTES_MAX."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError:
        return None
    return content if len(content) <= FILE_BYTES_MAX else None
