"""How a daemon of ours begins and ends: its log, its exit code, and one line on what ended it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine
from typing import Any

from nodestore.errors import NodectlError
from nodestore.support import logs


def run(program: str, name: str, log_level: str, work: Coroutine[Any, Any, None]) -> int:
    """Run `work` to its end: 0, 130 after Ctrl-C, a NodectlError's own exit code, 1 for anything else. No traceback,
    but at level debug."""
    logs.setup_logging(program, name, log_level)
    log = logging.getLogger(program)
    _reduce_garbage_collection()
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        reason = first_error(error)
        log.debug("ends", exc_info=True)
        if isinstance(reason, NodectlError):
            log.error("ends: %s", reason)
            return reason.exit_code
        log.error("ends: %s: %s", type(reason).__name__, reason)
        return 1
    log.info("has stopped")
    return 0


_GC_THRESHOLD = 10_000
"""How many more objects there must be than at the last look for cycles. Python's 700 costs a fifth of all CPU here:
what a daemon makes are entries, which stay a while and have no cycles."""


def _reduce_garbage_collection() -> None:
    gc.freeze()  # what the imports have made stays for good: it is not looked through again
    gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])


def first_error(error: BaseException) -> BaseException:
    """The first single error in a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
