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
        self._prefix = f"{program} {name}" if name else program
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
        return f"{stamp}.{int(record.msecs):03d}Z {level:<5} {self._prefix}: {one_line(message)}"


def one_line(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """`text` without line breaks and control characters, cut to a bounded length."""
    if len(text) > chars_max:
        text = text[:chars_max] + f"... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def setup_logging(program: str, name: str, level: str = "info") -> None:
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


class RateLimitedLog:
    """Logs a message only if it differs from the one before, or after `every_s` seconds (math.inf: never again).

    Where the wording varies (numbers, addresses) though the event is the same, pass `about`: it is compared instead of
    the message. `repeats`: the level at which the suppressed messages are logged; None: they are dropped.
    """

    def __init__(self, logger: logging.Logger, every_s: float = 30.0, *, repeats: int | None = None) -> None:
        self._logger, self._every_s, self._repeats = logger, every_s, repeats
        self._about: object = None
        self._written = 0.0

    def log(self, level: int, message: str, *, about: object = None) -> None:
        """Log `message` at `level`, unless it repeats the one before."""
        now = time.monotonic()
        subject = message if about is None else about
        if subject != self._about or now - self._written >= self._every_s:
            self._about, self._written = subject, now
            self._logger.log(level, "%s", message)
        elif self._repeats is not None:
            self._logger.log(self._repeats, "%s", message)

    def reset(self) -> None:
        """Forget the message before: the next one is logged. To be called once the fault is over."""
        self._about = None
