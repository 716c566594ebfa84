"""Copies a program's output into a log file of bounded size, and keeps its last line for error messages."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

from nodestore.processes.child_processes import Child
from nodestore.support.atomic_files import replace_file
from nodestore.support.logs import one_line

LINE_CHARS_MAX = 300
_CHUNK_BYTES = 1 << 16
_POLL_S = 0.02


class OutputCopier:
    """Copies a program's output to the file `path` (None: to no file).

    When the file reaches `bytes_max`, it is renamed to `<path>.1` and a new one is begun. So the two together have at
    most about 2 * `bytes_max` bytes.
    Output that cannot be written is dropped, because the program must not wait for a disk.

    Uses a plain pipe and a thread: with an asyncio pipe, the program's end is reported only after every process that
    inherited the pipe has ended.
    """

    def __init__(self, path: Path | None, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._tail = b""
        self._thread: threading.Thread | None = None

    def open(self) -> int:
        """Start copying and return the write end of the pipe. The caller closes it once the program is started."""
        ours, theirs = os.pipe()
        self._thread = threading.Thread(target=self._copy, args=(ours,), name="program output", daemon=True)
        self._thread.start()
        return theirs

    def join(self, timeout_s: float) -> None:
        """Block until all output is copied, or for `timeout_s` seconds."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _copy(self, pipe: int) -> None:
        with open(pipe, "rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                self._tail = (self._tail + chunk)[-4 * LINE_CHARS_MAX :]
                if self._path is not None:
                    self._write(self._path, chunk)

    def _write(self, path: Path, chunk: bytes) -> None:
        # opened for each chunk, because the work directory may be deleted in between
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(chunk)
                full = file.tell() >= self._bytes_max
            if full:
                replace_file(path, path.with_name(path.name + ".1"))
        except OSError:
            return

    @property
    def last_line(self) -> str:
        return last_line(self._tail)


def last_line(raw: bytes) -> str:
    """Return the last line of `raw` that is not blank, shortened for an error message; "" if there is none."""
    lines = [line for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    return one_line(lines[-1].strip(), LINE_CHARS_MAX) if lines else ""


def describe_exit_code(code: int) -> str:
    """Describe an exit code for people; a negative one is a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


async def wait_exit_code(child: Child) -> int:
    """Wait for the end of a child whose output is an asyncio pipe, and return its exit code.

    On Python before 3.13, the child's own wait() also waits until its child processes have closed that pipe.
    """
    while (code := child.poll()) is None:
        await asyncio.sleep(_POLL_S)
    return code
