"""Exports to the Event Log of Windows, as events of the source `nodectl` in the log Application."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from masterd.api.audit_export.records import ExportRecord

SOURCE = "nodectl"
LINE_CHARS_MAX = 16_000
"""Windows takes at most 31,839 characters."""
INFORMATION, WARNING = 4, 2
EVENT_IDS = {"command": 1, "refused": 2, "login": 3, "missing": 5, "restored": 6, "unreadable": 7}
CHANGE_ID = 4
"""The id of all other events: tokens, access control and the like."""


class EventLogApi(Protocol):
    """The functions of Windows that this sink calls. Each raises OSError."""

    def open(self, source: str) -> int:
        """Open the log for a source; return its handle."""

    def report(self, handle: int, kind: int, event_id: int, text: str) -> None:
        """Write an event. kind: INFORMATION or WARNING."""

    def close(self, handle: int) -> None:
        """Close the handle."""


class EventLogSink:
    """Writes each record as one event, whose text is the line of JSON."""

    repeats = 0

    def __init__(self, api: EventLogApi) -> None:
        self._api = api
        self._handle: int | None = None

    def write(self, records: Sequence[ExportRecord]) -> None:
        try:
            if self._handle is None:
                self._handle = self._api.open(SOURCE)
            for record in records:
                kind = INFORMATION if record.event in ("command", "login") else WARNING
                event_id = EVENT_IDS.get(record.event, CHANGE_ID)
                self._api.report(self._handle, kind, event_id, record.line(LINE_CHARS_MAX))
        except OSError:
            self.close()
            raise

    def sync(self) -> None:
        pass

    def close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._api.close(handle)


def windows_api() -> EventLogApi:
    """The functions of this Windows."""
    if sys.platform == "win32":
        from masterd.api.audit_export.windows_event_log import Advapi

        return Advapi()
    raise OSError("this system has no Event Log")
