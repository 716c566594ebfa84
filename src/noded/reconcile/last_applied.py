"""The file that holds the desired state last applied. It may be deleted at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from nodestore.errors import Garbage
from nodestore.pki.private_files import PRIVATE_MODE, make_owner_only
from nodestore.schema.models import Desired, decode
from nodestore.support.atomic_files import read_bounded, write_atomic
from nodestore.support.files.owner_only import restrict


class LastAppliedStore(Protocol):
    """Where the agent keeps the desired state last applied: see `LastApplied`."""

    def load(self) -> Desired | None: ...

    def save(self, desired: Desired | None) -> None: ...


class LastApplied:
    """The desired state that was last applied with success, kept on disk for a start without etcd.

    It may hold secrets, so only noded's user can read the file and its directory.

    noded uses the file only until its first linearizable read of `desired/<node>`. From then on what etcd holds is in
    force, even if the key is absent or its order is lower than that of the file.
    """

    def __init__(self, work_dir: Path) -> None:
        self._path = work_dir / ".noded" / "applied.json"

    def load(self) -> Desired | None:
        """Return the saved desired state; None if there is none or it is not readable."""
        content = read_bounded(self._path)
        if content is None:
            return None
        try:
            return decode(Desired, content, str(self._path))
        except Garbage:
            return None

    def save(self, desired: Desired | None) -> None:
        """Save `desired`, or delete the file if None. Writes only if the content differs. Raises OSError."""
        content = None if desired is None else desired.encode()
        if read_bounded(self._path) == content:
            if content is not None:
                restrict(self._path)
        elif content is None:
            self._path.unlink(missing_ok=True)
        else:
            make_owner_only(self._path.parent)
            write_atomic(self._path, content, PRIVATE_MODE)
