"""A bounded log of events: JSON lines in two files, the newest of them in memory. See `audit` for what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masterd.roles.principal import Principal
from nodestore.errors import Garbage
from nodestore.schema.api_types import AuditEntry
from nodestore.schema.limits import shortened
from nodestore.support.atomic_files import replace_file
from nodestore.support.jsonio import dumps, loads
from nodestore.support.logs import RateLimitedLog
from nodestore.support.tasks import background_task
from nodestore.support.tokens import hide_token_secrets

log = logging.getLogger(__name__)

ENTRIES_MAX = 1_000
"""How many entries are in memory, and in an answer."""
FILE_BYTES_MAX = 2 << 20
"""At this size the file becomes the older one of two."""
_WINDOW_S = 1.0
_DISTINCT_MAX = 128
"""How many different events of one second are recorded each. Further ones are counted in one entry."""
_TEXT_BYTES_MAX = 300
_OTHERS = "others"


@dataclass(slots=True)
class _Counted:
    """An event of the present second. time: of the first one."""

    time: float
    count: int = 1


_Key = tuple[str, str, str, str, str]
"""What makes two events equal: event, principal, address, request, detail."""


class EventLog:
    """Records events. path: the file, which is made when it is needed; None: the events are in memory only.

    on_entry: called with each entry, a second after its event.
    """

    def __init__(
        self,
        path: Path | None = None,
        clock: Callable[[], float] = time.time,
        on_entry: Callable[[AuditEntry], None] = lambda _: None,
    ) -> None:
        self._path, self._clock, self._on_entry = path, clock, on_entry
        self._window: dict[_Key, _Counted] = {}
        self._recent: deque[AuditEntry] = deque(maxlen=ENTRIES_MAX)
        self._unwritten: deque[AuditEntry] = deque(maxlen=ENTRIES_MAX)
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._lost = 0
        self._has_written = False
        self._limited_log = RateLimitedLog(log, 60.0)

    def record(self, event: str, principal: Principal, *, request: str = "", detail: str = "") -> None:
        """Record an event. `request`: the method and path, if a request is the reason. Secrets of tokens are left out:
        a token may be in the path of a request whose sender took it for an id."""
        texts = (event, str(principal), principal.address, hide_token_secrets(request), hide_token_secrets(detail))
        key: Any = tuple(shortened(text, _TEXT_BYTES_MAX) for text in texts)
        if key not in self._window and len(self._window) >= _DISTINCT_MAX:
            key = (event, _OTHERS, "", "", "")
        if (counted := self._window.get(key)) is not None:
            counted.count += 1
            return
        self._window[key] = _Counted(self._clock())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WINDOW_S, self._end_window)

    def _end_window(self) -> None:
        self._timer = None
        for (event, principal, address, request, detail), counted in self._window.items():
            entry: AuditEntry = {
                "time": round(counted.time, 3), "event": event, "principal": principal, "address": address,
                "request": request, "detail": detail, "count": counted.count,
            }  # fmt: skip
            self._recent.append(entry)
            self._on_entry(entry)
            if self._path is not None:
                self._lost += len(self._unwritten) == self._unwritten.maxlen
                self._unwritten.append(entry)
        self._window.clear()
        if self._unwritten and self._writing is None:
            self._writing = background_task(self._write_all(), name="event log")

    async def _write_all(self) -> None:
        """Write what is not written yet. What cannot be written is dropped and counted."""
        try:
            while self._unwritten:
                entries = tuple(self._unwritten)
                self._unwritten.clear()
                try:
                    await asyncio.to_thread(self._append, b"".join(dumps(entry) + b"\n" for entry in entries))
                except OSError as error:
                    self._lost += len(entries)
                    reason = error.strerror or str(error)
                    self._limited_log.log(
                        logging.ERROR, f"{self._path}: {reason}; {self._lost} entries are not in it",
                        about=reason,
                    )  # fmt: skip
        finally:
            self._writing = None

    def _append(self, lines: bytes) -> None:
        assert self._path is not None
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        handle = os.open(self._path, flags, 0o600)
        with open(handle, "ab") as file:
            # A line that a power cut left incomplete must not swallow the next one.
            file.write(lines if self._has_written else b"\n" + lines)
            self._has_written = True
            size = file.tell()
        if size >= FILE_BYTES_MAX:
            replace_file(self._path, _older(self._path))

    async def entries(self, limit: int) -> list[AuditEntry]:
        """The newest entries, at most `limit` and ENTRIES_MAX, oldest first: of the file, else those in memory."""
        self._flush_window()
        if self._path is None:
            return list(self._recent)[-limit:]
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_WINDOW_S)
        found = await asyncio.to_thread(_read, self._path)
        written = {_identity(entry) for entry in found}
        missing = [entry for entry in self._recent if _identity(entry) not in written]
        return sorted([*found, *missing], key=lambda entry: entry["time"])[-limit:]

    def _flush_window(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._end_window()

    async def close(self) -> None:
        """Write what is in memory, for at most a second."""
        self._flush_window()
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_WINDOW_S)


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _read(path: Path) -> list[AuditEntry]:
    """The newest entries in the two files, oldest first. Lines that cannot be read are left out."""
    lines: list[bytes] = []
    for each in (_older(path), path):
        with contextlib.suppress(OSError):
            lines += each.read_bytes().splitlines()
    found: list[AuditEntry] = []
    for line in lines[-ENTRIES_MAX:]:
        with contextlib.suppress(Garbage, KeyError, TypeError, ValueError):
            found.append(_entry(loads(line, str(path))))
    return found


def _identity(entry: AuditEntry) -> tuple[object, ...]:
    return tuple(entry.values())


def _entry(value: Any) -> AuditEntry:
    """An entry as a line holds it. Raises KeyError, TypeError or ValueError for other values."""
    return {
        "time": float(value["time"]), "event": str(value["event"]), "principal": str(value["principal"]),
        "address": str(value["address"]), "request": str(value["request"]), "detail": str(value["detail"]),
        "count": int(value["count"]),
    }  # fmt: skip
