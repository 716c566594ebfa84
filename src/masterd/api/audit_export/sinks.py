"""What takes the records of an export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from masterd.api.audit_export.records import ExportRecord


class Sink(Protocol):
    """Takes records, in a thread: each method may block. OSError if a record was not taken for certain."""

    repeats: int
    """How many commands are sent again after a failure and after a start, because some of the last ones may be lost."""

    def write(self, records: Sequence[ExportRecord]) -> None:
        """Take these records, in this order."""

    def sync(self) -> None:
        """Make what was taken durable, as far as this kind of sink can."""

    def close(self) -> None:
        """Free what is open. A later `write` opens it again."""
