"""The log of masterd and noded: one line an event on stderr, which the service manager keeps.

    2026-01-01T12:00:00.123Z INFO  noded n1: generation 8: starts the program because it exited with code 1

Times are UTC. A message never spans lines and never fails to be written, whatever it quotes.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType

LEVELS: Mapping[str, int] = MappingProxyType(
    {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
)
MESSAGE_CHARS_MAX = 4000
"""What a message quotes may be large garbage; a line of the log must not be."""

_SHORT = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class LineFormatter(logging.Formatter):
    """One event, one line; tracebacks only at level debug, and then as an escaped part of the line."""

    def __init__(self, program: str, name: str, *, traces: bool) -> None:
        super().__init__()
        self._who = f"{program} {name}" if name else program
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        seconds = int(record.created)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        level = _SHORT.get(record.levelname, record.levelname)
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            if self._traces:
                message = f"{message}\n{self.formatException(record.exc_info)}"
            else:
                message = f"{message} ({record.exc_info[0].__name__}: {record.exc_info[1]})"
        return f"{stamp}.{int(record.msecs):03d}Z {level:<5} {self._who}: {one_line(message)}"


def one_line(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """`text` without line breaks and control characters, cut to a bounded length."""
    if len(text) > chars_max:
        text = text[:chars_max] + f"... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def setup(program: str, name: str, level: str = "info") -> None:
    """Send the log of this process to stderr; `level` is one of LEVELS. Replaces what an earlier call set up."""
    reconfigure = getattr(sys.stderr, "reconfigure", None)
    if reconfigure is not None:  # a pipe on Windows is cp1252 and would refuse most of Unicode
        reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(program, name, traces=level == "debug"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    for noisy in ("asyncio", "grpc", "aiohttp"):
        logging.getLogger(noisy).setLevel(max(LEVELS[level], logging.WARNING))


class Seldom:
    """For what is tried many times a second: a line is written when it is another than the last one, or after a while.

    The words that vary (numbers, addresses) belong into `line`, what it is about into `about`.
    """

    def __init__(self, log: logging.Logger, every_s: float = 30.0) -> None:
        self._log, self._every_s = log, every_s
        self._about: object = None
        self._written = 0.0

    def __call__(self, level: int, line: str, *, about: object = None) -> None:
        now = time.monotonic()
        subject = line if about is None else about
        if subject == self._about and now - self._written < self._every_s:
            return
        self._about, self._written = subject, now
        self._log.log(level, "%s", line)

    def forget(self) -> None:
        """It works again: the next trouble is news."""
        self._about = None
