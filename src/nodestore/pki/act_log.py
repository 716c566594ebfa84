"""The record of what was done with the authorities: who made, issued, revoked or replaced what, and when.

JSON lines with the fields of masterd's audit log, in two files in the directory of the authorities: the newest 1 to 2
MiB. `issued.json` is what decides which certificates exist; this record adds who did it. So a disk that is full costs a
line, which is reported, and stops no revocation. Callers hold the lock of the directory.
"""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Callable
from pathlib import Path

from nodestore.support.atomic_files import replace_file
from nodestore.support.jsonio import Json, dumps

log = logging.getLogger(__name__)

ACTS = "audit.jsonl"
FILE_BYTES_MAX = 1 << 20
"""At this size the file becomes the older one of two."""
_DETAIL_CHARS_MAX = 1_000


class ActLog:
    """Appends to the record in `directory`. clock: seconds since 1970."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = directory / ACTS, clock

    def record(self, event: str, detail: str) -> None:
        """Record an act of the user who runs this program. event: such as `certificate issued`. Logs an OSError."""
        entry: dict[str, Json] = {
            "time": round(self._clock(), 3), "event": event, "principal": f"user:{_user()}", "address": "",
            "request": "nodectl pki", "detail": detail[:_DETAIL_CHARS_MAX], "count": 1,
        }  # fmt: skip
        try:
            self._append(dumps(entry) + b"\n")
        except OSError as error:
            log.warning("%s: %s; it lacks: %s: %s", self._path, error.strerror or error, event, detail)

    def _append(self, line: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        with open(os.open(self._path, flags, 0o600), "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size and not _ends_line(file.fileno(), size):  # a line that was cut must not swallow this one
                line = b"\n" + line
            file.write(line)
            size += len(line)
        if size >= FILE_BYTES_MAX:
            replace_file(self._path, self._path.with_name(f"{ACTS}.1"))


def _ends_line(descriptor: int, size: int) -> bool:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in a container
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
