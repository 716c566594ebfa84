"""A file of endpoints, `host:port` separated by commas or lines, that a session follows while it runs.

An agent that knows the members of etcd writes it, so that no program must be restarted when they change.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from nodestore.errors import Invalid
from nodestore.etcd.types import EtcdSettings, host_port
from nodestore.support.logs import RateLimitedLog

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 1.0
_LOG_EVERY_S = 60.0
_BYTES_MAX = 4_096


def read_endpoints(path: Path) -> tuple[str, ...]:
    """The endpoints in the file. Raises Invalid if it cannot be read, or names none."""
    try:
        with path.open("rb") as file:
            text = file.read(_BYTES_MAX).decode("utf-8", "replace")
    except OSError as error:
        raise Invalid(f"file of endpoints {path}: {error.strerror or error}") from None
    try:
        return EtcdSettings(endpoints=tuple(host_port(part) for part in re.split(r"[\s,]+", text) if part)).endpoints
    except Invalid as error:
        raise Invalid(f"file of endpoints {path}: {error}") from None


async def follow_endpoints(path: Path, use: Callable[[tuple[str, ...]], None]) -> NoReturn:
    """Call `use` with the endpoints of the file, each time it has changed. If it cannot be read, nothing is called."""
    problems = RateLimitedLog(log, _LOG_EVERY_S)
    last: tuple[object, ...] | None = None
    while True:
        signature = _signature(path)
        if signature != last:
            try:
                use(read_endpoints(path))
            except Invalid as error:
                problems.log(logging.ERROR, f"{error}; the former endpoints stay in use")
            else:
                problems.reset()
                last = signature
        await asyncio.sleep(_CHECK_EVERY_S)


def _signature(path: Path) -> tuple[object, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
