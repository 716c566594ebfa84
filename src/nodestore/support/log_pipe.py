"""Writes log lines to a pipe or a socket without ever waiting for its reader.

A service manager that hangs, or a pager that waits for a key, takes no data. A daemon that waited for it would stop
working. So lines wait in a bounded buffer; more are dropped, and a line says how many once there is room again.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
from collections import deque
from typing import TextIO

_BUFFER_BYTES_MAX = 256 << 10
_PIECE_BYTES = 512
"""POSIX guarantees that a pipe that is ready for writing takes so much (PIPE_BUF) without blocking."""


class LogPipe:
    """What a logging.StreamHandler needs of a stream; `descriptor` is the pipe. Not for several threads at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)
        self._pieces: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._dropped_lines = 0

    def write(self, text: str) -> int:
        """Write `text`, a whole line, as far as the reader takes data; keep the rest for the next call."""
        self.flush()
        if self._dropped_lines and not self._pieces:
            text = f"({self._dropped_lines} lines of the log were dropped here, because nothing read them)\n{text}"
            self._dropped_lines = 0
        content = text.encode("utf-8", "backslashreplace")
        if self._dropped_lines or self._buffered_bytes + len(content) > _BUFFER_BYTES_MAX:
            self._dropped_lines += 1
            return len(text)
        self._pieces.extend(content[at : at + _PIECE_BYTES] for at in range(0, len(content), _PIECE_BYTES))
        self._buffered_bytes += len(content)
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is waiting as far as the reader takes it. Never blocks, and raises nothing."""
        with contextlib.suppress(OSError):  # nothing reads the pipe any more
            while self._pieces and self._ready.poll(0):
                piece = self._pieces.popleft()
                self._buffered_bytes -= len(piece)
                os.write(self._descriptor, piece)


def unblocking(stream: TextIO) -> TextIO | LogPipe:
    """Return a LogPipe if `stream` is a pipe or a socket, else `stream`. On Windows always `stream`."""
    if sys.platform == "win32":
        return stream
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError, io.UnsupportedOperation):  # a test's stream has no descriptor
        return stream
    return LogPipe(stream.fileno()) if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else stream
