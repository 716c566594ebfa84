"""Runs a daemon: sets up its log, and turns the error that ended it into a log line and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
from collections.abc import Coroutine
from typing import Any

from nodestore.daemon.log_target import LogFileSettings, LogFileStream
from nodestore.daemon.loop_errors import LoopErrors
from nodestore.errors import NodectlError
from nodestore.support import logs

_DRAIN_S = 2.0


def run(
    program: str,
    name: str,
    log_level: str,
    work: Coroutine[Any, Any, None],
    log_file: LogFileSettings | None = None,
) -> int:
    """Run `work` to its end; return the exit code: 0, 130 after Ctrl-C, that of a NodectlError, or 1.

    An error is logged in one line, with its traceback only at level debug. log_file: where to log; None: stderr.
    """
    stream = None if log_file is None else LogFileStream(log_file, program)
    logs.setup_logging(program, name, log_level, stream)
    try:
        return _run_to_its_end(logging.getLogger(program), work)
    finally:
        if stream is not None:
            stream.drain(_DRAIN_S)


def _run_to_its_end(log: logging.Logger, work: Coroutine[Any, Any, None]) -> int:
    _reduce_garbage_collection()
    _show_where_it_hung()
    try:
        asyncio.run(_with_loop_errors(work))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        reason = first_error(error)
        log.debug("stopped by an error", exc_info=True)
        if isinstance(reason, NodectlError):
            log.error("stopped by an error: %s", reason)
            return reason.exit_code
        log.error("stopped by an error: %s: %s", type(reason).__name__, reason)
        return 1
    log.info("stopped")
    return 0


async def _with_loop_errors(work: Coroutine[Any, Any, None]) -> None:
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    await work


_GC_THRESHOLD = 10_000
"""Threshold of the first generation of Python's garbage collector.

With the default of 700, the collector takes 3 % of the CPU time of a command, although journal entries are structs that
it does not visit.
"""


def _reduce_garbage_collection() -> None:
    gc.freeze()  # objects of the imports are never freed; a full collection of them holds masterd up for 20 to 50 ms
    gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])


def _show_where_it_hung() -> None:
    """Write what each thread does to stderr if this process crashes, or if its watchdog kills it by SIGABRT."""
    if not faulthandler.is_enabled():
        with contextlib.suppress(AttributeError, RuntimeError, ValueError, OSError):  # without a stderr
            faulthandler.enable()


def first_error(error: BaseException) -> BaseException:
    """The first error in nested exception groups; `error` itself if it is no group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
