"""The functions of Windows that write to its Event Log."""

from __future__ import annotations

import ctypes
import sys
from ctypes import wintypes

assert sys.platform == "win32"  # mypy checks the rest on Windows only

_advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
_advapi32.RegisterEventSourceW.restype = wintypes.HANDLE
_advapi32.RegisterEventSourceW.argtypes = [wintypes.LPCWSTR, wintypes.LPCWSTR]
_advapi32.ReportEventW.restype = wintypes.BOOL
_advapi32.ReportEventW.argtypes = [
    wintypes.HANDLE, wintypes.WORD, wintypes.WORD, wintypes.DWORD, wintypes.LPVOID, wintypes.WORD, wintypes.DWORD,
    ctypes.POINTER(wintypes.LPCWSTR), wintypes.LPVOID,
]  # fmt: skip
_advapi32.DeregisterEventSource.restype = wintypes.BOOL
_advapi32.DeregisterEventSource.argtypes = [wintypes.HANDLE]


class Advapi:
    """The functions of advapi32.dll, as `event_log_sink.EventLogApi`."""

    def open(self, source: str) -> int:
        handle: int | None = _advapi32.RegisterEventSourceW(None, source)
        if not handle:
            raise ctypes.WinError(ctypes.get_last_error())
        return handle

    def report(self, handle: int, kind: int, event_id: int, text: str) -> None:
        texts = (wintypes.LPCWSTR * 1)(text)
        if not _advapi32.ReportEventW(handle, kind, 0, event_id, None, 1, 0, texts, None):
            raise ctypes.WinError(ctypes.get_last_error())

    def close(self, handle: int) -> None:
        _advapi32.DeregisterEventSource(handle)
