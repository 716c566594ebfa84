"""Copies a program's output into a log file of bounded size, and keeps its last line for error messages."""

from __future__ import annotations

import asyncio
import codecs
import functools
import os
import signal
import sys
import threading
from collections.abc import Sequence

from nodestore.processes.child_processes import Child
from nodestore.processes.log_file import LogFile
from nodestore.support.logs import one_line

LINE_CHARS_MAX = 300
_CHUNK_BYTES = 1 << 16
_POLL_S = 0.02
_NTSTATUS_MIN = 0x80000000
_NTSTATUS = {
    0xC0000005: "access violation",
    0xC0000017: "out of memory",
    0xC000001D: "illegal instruction",
    0xC0000094: "integer division by zero",
    0xC00000FD: "stack overflow",
    0xC0000135: "a DLL was not found",
    0xC0000139: "an entry point was not found in a DLL",
    0xC000013A: "ended by Ctrl-C",
    0xC0000142: "a DLL could not be initialised",
    0xC0000374: "heap corruption",
    0xC0000409: "stack buffer overrun",
}


class OutputCopier:
    """Copies the output of one run of a program to `target` (None: to no file), and keeps its end.

    Uses a plain pipe and a thread: with an asyncio pipe, the program's end is reported only after every process that
    inherited the pipe has ended.
    """

    def __init__(self, target: LogFile | None) -> None:
        self._target = target
        self._tail = b""
        self._thread: threading.Thread | None = None

    def open(self) -> int:
        """Start copying and return the write end of the pipe. The caller closes it once the program is started."""
        ours, theirs = os.pipe()
        self._thread = threading.Thread(target=self._copy, args=(ours,), name="program output", daemon=True)
        self._thread.start()
        return theirs

    def join(self, timeout_s: float) -> None:
        """Block until all output is read, or for `timeout_s` seconds."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _copy(self, pipe: int) -> None:
        with open(pipe, "rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                self._tail = (self._tail + chunk)[-4 * LINE_CHARS_MAX :]
                if self._target is not None:
                    self._target.write(chunk)

    @property
    def last_line(self) -> str:
        return last_line(self._tail)


def decode_output(raw: bytes, code_pages: Sequence[str] | None = None) -> str:
    """Decode what a program printed. Every line ends with a newline, however the program ends its lines.

    code_pages: the encodings to try if `raw` is not UTF-8 (None: those of the system). On Windows a program prints in
    the OEM code page or in the ANSI one, and nothing says in which. The more letters a code page yields, the more
    likely it is the right one. `raw` may begin in the middle of a character.
    """
    return _decoded(raw, _code_pages() if code_pages is None else code_pages).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(raw: bytes, code_pages: Sequence[str]) -> str:
    begin = 0
    while begin < min(3, len(raw)) and raw[begin] & 0xC0 == 0x80:  # the rest of a character whose begin was cut off
        begin += 1
    try:
        return raw[begin:].decode()
    except UnicodeDecodeError:
        candidates = [raw.decode(page, "replace") for page in code_pages]
    return min(candidates, key=_strangeness) if candidates else raw.decode("utf-8", "replace")


def _strangeness(text: str) -> int:
    """How many characters of `text` are neither ASCII nor letters."""
    return sum(not (char.isascii() or char.isalpha()) for char in text)


@functools.cache
def _code_pages() -> tuple[str, ...]:
    if sys.platform != "win32":
        return ()
    import ctypes

    kernel = ctypes.windll.kernel32
    pages = (f"cp{number}" for number in (kernel.GetOEMCP(), kernel.GetACP()))
    return tuple(page for page in pages if _is_known(page))


def _is_known(page: str) -> bool:
    try:
        codecs.lookup(page)
    except LookupError:
        return False
    return True


def last_line(raw: bytes) -> str:
    """Return the last line of `raw` that is not blank, shortened for an error message; "" if there is none."""
    lines = [line for line in decode_output(raw).splitlines() if line.strip()]
    return one_line(lines[-1].strip(), LINE_CHARS_MAX) if lines else ""


def describe_exit_code(code: int) -> str:
    """Describe an exit code for people; a negative one is a signal, a very large one an exception of Windows."""
    if code >= _NTSTATUS_MIN:
        name = _NTSTATUS.get(code)
        return f"exited with code 0x{code:08X}" + (f" ({name})" if name else "")
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
