"""Logs errors that asyncio reports outside of any task. Errors for lack of file descriptors get one line a minute.

If a process has no descriptor left, asyncio reports each waiting connection that it cannot accept. A second later it
tries to accept all of them again: thousands of lines a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LOG_EVERY_S = 60.0


class LoopErrors:
    """An exception handler for an event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_line_at = 0.0
        self._unlogged = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in LACKS:
            loop.default_exception_handler(context)
            return
        now = self._clock()
        if now < self._next_line_at:
            self._unlogged += 1
            return
        more = f"; {self._unlogged} more since the last such line" if self._unlogged else ""
        self._next_line_at, self._unlogged = now + _LOG_EVERY_S, 0
        log.error(
            "a connection cannot be accepted now: %s (limit: %s)%s. Raise the limit (LimitNOFILE of the service), or "
            "find out who opens so many connections",
            error.strerror or error, _limit(), more,
        )  # fmt: skip


def _limit() -> str:
    if sys.platform == "win32":
        return "that of Windows"
    import resource

    return f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} descriptors"
