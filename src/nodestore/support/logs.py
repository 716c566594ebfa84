"""The log of masterd and noded: one line per event on stderr, which the service manager stores.

    2026-01-01T12:00:00.123Z INFO  noded n1: generation 8: starts the program because it exited with code 1

Times are UTC. A message is always a single line, and can always be written, whatever text it quotes. If stderr is
journald's, each line begins with its priority, as in sd-daemon(3): journald removes it and stores it as a field.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, TextIO

from nodestore.support.log_pipe import unblocking

LEVELS: Mapping[str, int] = MappingProxyType(
    {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
)
MESSAGE_CHARS_MAX = 4000
"""Longest message in a line of the log: a message may quote a large value."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_SHORT = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class LineFormatter(logging.Formatter):
    """Formats an event as one line. At level debug that line includes the traceback, escaped."""

    def __init__(self, program: str, name: str, *, for_journald: bool = False) -> None:
        super().__init__()
        self._for_journald = for_journald
        self._prefix = f"{program} {name}" if name else program

    def format(self, record: logging.LogRecord) -> str:
        seconds = int(record.created)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        level = _SHORT.get(record.levelname, record.levelname)
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            if logging.getLogger().isEnabledFor(logging.DEBUG):
                message = f"{message}\n{self.formatException(record.exc_info)}"
            else:
                message = f"{message} ({record.exc_info[0].__name__}: {record.exc_info[1]})"
        priority = f"<{_priority(record.levelno)}>" if self._for_journald else ""
        return f"{priority}{stamp}.{int(record.msecs):03d}Z {level:<5} {self._prefix}: {one_line(message)}"


def _priority(level: int) -> int:
    """The priority of syslog(3) for a level of Python's logging."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


def _is_journald(stream: TextIO) -> bool:
    """Whether this stream is journald's. The variable stays set in programs whose stderr is another one."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        status = os.fstat(stream.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def one_line(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """`text` with line breaks and control characters escaped, cut to `chars_max` characters."""
    if len(text) > chars_max:
        text = text[:chars_max] + f"... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class LogStream(Protocol):
    """Takes whole lines of a log, without waiting."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...


def setup_logging(program: str, name: str, level: str = "info", stream: LogStream | None = None) -> None:
    """Write the log of this process to `stream`, or else to stderr. Replaces the setup of an earlier call.

    level: one of LEVELS.
    """
    reconfigure = getattr(sys.stderr, "reconfigure", None)
    if reconfigure is not None:  # a pipe on Windows is cp1252 and would refuse most of Unicode
        reconfigure(encoding="utf-8", errors="backslashreplace")
    handler: logging.StreamHandler[Any] = logging.StreamHandler(unblocking(sys.stderr) if stream is None else stream)
    handler.setFormatter(LineFormatter(program, name, for_journald=stream is None and _is_journald(sys.stderr)))
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Write events of `level` and above from now on. Tracebacks are written at level debug only."""
    root = logging.getLogger()
    root.setLevel(LEVELS[level])
    for noisy in ("asyncio", "grpc", "aiohttp"):
        logging.getLogger(noisy).setLevel(max(LEVELS[level], logging.WARNING))


class RateLimitedLog:
    """Logs a message if it differs from the last logged one, or if that was logged at least `every_s` seconds ago.

    `every_s` = math.inf: a repeated message is never logged again. `repeats`: the level at which the messages in
    between are logged; None: they are dropped.
    """

    def __init__(self, logger: logging.Logger, every_s: float = 30.0, *, repeats: int | None = None) -> None:
        self._logger, self._every_s, self._repeats = logger, every_s, repeats
        self._about: object = None
        self._written = 0.0

    def log(self, level: int, message: str, *, about: object = None) -> None:
        """Log `message` at `level`, unless it repeats the one before.

        `about`: compared instead of the message. Pass it if messages about the same event vary in their wording.
        """
        now = time.monotonic()
        subject = message if about is None else about
        if subject != self._about or now - self._written >= self._every_s:
            self._about, self._written = subject, now
            self._logger.log(level, "%s", message)
        elif self._repeats is not None:
            self._logger.log(self._repeats, "%s", message)

    def reset(self) -> None:
        """Forget the last message, so that the next one is logged. Call it once the fault is over."""
        self._about = None
