"""A log file of bounded size, to which nothing ever waits to write.

A file can take no data for hours, such as one on a network share that hangs, or a named pipe without a reader. That
must not stop the program whose output it takes. So a thread writes what a bounded buffer holds.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections import deque
from pathlib import Path

from nodestore.support.atomic_files import replace_file

BUFFER_BYTES_MAX = 1 << 20
"""How much output waits for a file that takes no data; more is dropped."""
_OVERSIZE = 2


class LogFile:
    """Appends output to the file `path`, on a thread of its own. `write` never blocks; it drops what has no room.

    When the file reaches `bytes_max`, it is renamed to `<path>.1`, `<path>.1` to `<path>.2` and so on, and a new one is
    begun; `files` are kept in all. If that fails, because a reader on Windows has one of them open, the file grows to
    twice the size and is then begun anew in place. So all have at most about (`files` + 1) * `bytes_max` bytes. Once
    the file takes data again, a line in it says how much was dropped.

    One serves all runs of a program, so a file that hangs costs one thread, however often the program starts.
    writer: what writes to it, for that line.
    """

    def __init__(self, path: Path, bytes_max: int, *, files: int = 2, writer: str = "noded") -> None:
        self.path = path
        self.bytes_max = bytes_max
        self.dropped_bytes = 0
        """How many bytes were dropped and not yet reported by a line in the file."""
        self._files, self._writer = files, writer
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._changed = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._write_forever, name="log file", daemon=True).start()

    def write(self, chunk: bytes) -> None:
        """Append `chunk` soon, or drop it if too much is waiting already."""
        with self._changed:
            if self._buffered_bytes + len(chunk) > BUFFER_BYTES_MAX:
                self.dropped_bytes += len(chunk)
                return
            if self.dropped_bytes:
                note = f"\n[{self._writer} dropped {self.dropped_bytes} bytes of output here]\n"
                chunk = note.encode() + chunk
                self.dropped_bytes = 0
            self._chunks.append(chunk)
            self._buffered_bytes += len(chunk)
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread once it has written what is waiting. Does not wait for that."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Block until everything is written, or for `timeout_s` seconds; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._buffered_bytes == 0, timeout_s)

    def _write_forever(self) -> None:
        while (chunk := self._next_chunk()) is not None:
            is_written = self._append(chunk)
            with self._changed:
                self._buffered_bytes -= len(chunk)
                if not is_written:
                    self.dropped_bytes += len(chunk)
                self._changed.notify_all()

    def _next_chunk(self) -> bytes | None:
        """Wait for output. None once the file is closed and everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._is_closed)
            return self._chunks.popleft() if self._chunks else None

    def _append(self, content: bytes) -> bool:
        # opened for each chunk: the directory may be deleted in between, and Windows renames no file that is open
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                _write_all(file, content)
                size = file.tell() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else 0
        except OSError:
            return False
        if size >= self.bytes_max:
            self._begin_anew(size)
        return True

    def _begin_anew(self, size: int) -> None:
        try:
            for number in range(self._files - 1, 0, -1):
                older = self._numbered(number - 1)
                if number == 1 or older.exists():
                    replace_file(older, self._numbered(number))
        except OSError:
            if size >= _OVERSIZE * self.bytes_max:
                _truncate(self.path)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


def _write_all(file: io.RawIOBase, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def _truncate(path: Path) -> None:
    with contextlib.suppress(OSError):  # the next chunk tries it again
        os.truncate(path, 0)
