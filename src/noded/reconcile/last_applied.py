"""The file with the spec that this node last applied, which may be lost at any moment."""

from __future__ import annotations

from pathlib import Path

from nodestore.errors import Garbage
from nodestore.schema.models import Desired, decode
from nodestore.support.atomic_files import read_bounded, write_atomic


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

    def save(self, desired: Desired | None) -> None:
        """Remember `desired`, or that nothing may run. Writes only what differs from the file. OSError."""
        wanted = None if desired is None else desired.encode()
        if read_bounded(self._path) == wanted:
            return
        if wanted is None:
            self._path.unlink(missing_ok=True)
        else:
            write_atomic(self._path, wanted)
