"""How far an export is: in memory, and in a file that survives a restart."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from pydantic import Field

from masterd.api.audit_export.records import CommandPosition
from nodestore.errors import Garbage
from nodestore.schema.models import Model, decode
from nodestore.support.atomic_files import read_bounded, write_atomic

log = logging.getLogger(__name__)


class ExportProgress(Model):
    """The last command that a sink has taken; 0.0: none."""

    sink: str = Field(description="the sink, as --audit-export names it")
    epoch: int = 0
    index: int = 0
    missing: int = Field(default=0, description="how many commands were truncated before they were exported")
    missing_at: float = Field(default=0.0, description="when that was last noticed")

    @property
    def position(self) -> CommandPosition | None:
        """None if no command was exported yet."""
        return CommandPosition(self.epoch, self.index) if self.epoch else None

    def at(self, position: CommandPosition) -> ExportProgress:
        """The progress after a command."""
        return self.model_copy(update={"epoch": position.epoch, "index": position.index})


class ProgressFile:
    """Keeps the progress of one sink of one cluster. Without the file, an export begins with the oldest command."""

    def __init__(self, directory: Path, cluster: str, sink: str) -> None:
        digest = hashlib.sha256(sink.encode()).hexdigest()[:12]
        self._path, self._sink = directory / f"audit-export-{cluster}-{digest}.json", sink

    def load(self) -> ExportProgress:
        content = read_bounded(self._path)
        if content is None:
            return ExportProgress(sink=self._sink)
        try:
            found = decode(ExportProgress, content, str(self._path))
        except Garbage as error:
            log.error("ignoring how far the export was: %s", error)
            return ExportProgress(sink=self._sink)
        return found if found.sink == self._sink else ExportProgress(sink=self._sink)

    def save(self, progress: ExportProgress) -> None:
        """Write the file durably; it blocks. Raises OSError."""
        write_atomic(self._path, progress.encode(), 0o600)
