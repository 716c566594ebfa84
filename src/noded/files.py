"""Files in a node's work directory: written whole or not at all, and gone at any moment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nodestore.errors import Garbage
from nodestore.models import Desired, decode
from nodestore.procs import replace_file

FILE_BYTES_MAX = 8 << 20


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that a reader, or a power cut, sees the old file or the new one. OSError when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace_file(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def read_bounded(path: Path) -> bytes | None:
    """The file's content; None when it is absent, unreadable or larger than FILE_BYTES_MAX."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError:
        return None
    return content if len(content) <= FILE_BYTES_MAX else None


class LastApplied:
    """What this node last applied with success, for a start while etcd is away.

    What comes from etcd always wins, a deletion included: this file sets no order to compare with, it only fills the
    time until the first linearizable read.
    """

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / ".noded" / "applied.json"

    def load(self) -> Desired | None:
        """What is remembered; None when there is nothing, or nothing that can be read."""
        content = read_bounded(self._path)
        if content is None:
            return None
        try:
            return decode(Desired, content, str(self._path))
        except Garbage:
            return None

    def keep(self, desired: Desired | None) -> None:
        """Remember `desired`, or that nothing may run. Writes only what differs from the file. OSError."""
        wanted = None if desired is None else desired.encode()
        if read_bounded(self._path) == wanted:
            return
        if wanted is None:
            self._path.unlink(missing_ok=True)
        else:
            write_atomic(self._path, wanted)
