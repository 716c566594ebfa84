"""Exports to a file of JSON lines, which becomes the older one of two when it is large."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from masterd.api.audit_export.records import ExportRecord
from nodestore.support.atomic_files import replace_file

FILE_BYTES_MAX = 32 << 20
LINE_BYTES_MAX = 8_000
_CHUNK = 64
"""How many lines are in memory at a time."""


class FileSink:
    """Appends to `path`, which it opens anew each time: another program may rotate the file."""

    repeats = 0

    def __init__(self, path: Path, bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path, self._bytes_max = path, bytes_max
        self._is_line_begun = True
        """Whether the last line in the file may be incomplete: after a start, and after a write that failed."""

    def write(self, records: Sequence[ExportRecord]) -> None:
        for begin in range(0, len(records), _CHUNK):
            lines = [record.line(LINE_BYTES_MAX) + "\n" for record in records[begin : begin + _CHUNK]]
            self._append("".join(lines).encode())

    def _append(self, lines: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        with open(os.open(self._path, flags, 0o600), "ab", buffering=0) as file:
            begun, self._is_line_begun = self._is_line_begun, True
            content = memoryview(b"\n" + lines if begun and file.tell() else lines)
            while content:
                content = content[file.write(content) or 0 :]
            self._is_line_begun = False
            size = file.tell()
        if size >= self._bytes_max:
            replace_file(self._path, self._path.with_name(f"{self._path.name}.1"))

    def sync(self) -> None:
        with open(self._path, "ab") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        pass
