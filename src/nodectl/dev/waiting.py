"""Waiting for processes: until a check passes, a process ends, or a timeout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp

from nodectl.dev.record import Part, Record
from nodestore.errors import NodectlError
from nodestore.support.backoff import Backoff
from nodestore.support.jsonio import loads
from nodestore.support.waiting import wait_until

POLL_S = 0.05
_ANSWER_S = 1.0
_TAIL_LINES = 12
_TAIL_BYTES = 64 << 10

Check = Callable[[], Awaitable[str | None]]
"""Returns what is still missing, or None. If it raises Unavailable, the reason counts as missing."""


async def wait_for_processes(
    what: str, check: Check, watched: Iterable[str], record: Record, log_of: Callable[[str], Path], timeout_s: float
) -> None:
    """Wait until `check` passes. `what`: the condition, for messages.

    Raises NodectlError if a process in `watched` ends, and TimedOut after `timeout_s` seconds. Both quote the logs.
    """
    names = list(watched)

    def check_running(_: str) -> None:
        for name in names:
            if not record.parts[name].running:
                raise ended_error(name, record.parts[name], log_of(name))

    def logs() -> str:
        return ". " + "\n".join(quote_log_tail(log_of(name), 4) for name in names[:3])

    await wait_until(check, what, timeout_s, Backoff(POLL_S, POLL_S), report=check_running, details=logs)


def ended_error(name: str, part: Part, log: Path) -> NodectlError:
    """Return the error for a process that has ended, with the end of its log."""
    return NodectlError(f"{name} ({part.program}) has ended. {quote_log_tail(log)}")


def quote_log_tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log file, and its path, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            found = file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        found = []
    if not found:
        return f"Its log, {log}, is empty."
    return f"The last lines of {log}:\n" + "\n".join(f"    {line}" for line in found)


async def get_json(session: aiohttp.ClientSession, url: str) -> dict[str, object] | None:
    """Return the JSON object that a server on this PC answers; None for any other answer, or none."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    try:
        async with session.get(url, timeout=timeout) as answer:
            found = loads(await answer.read())
    except (aiohttp.ClientError, TimeoutError, OSError, NodectlError):
        return None
    return found if isinstance(found, dict) else None
